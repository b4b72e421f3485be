"""Write the Triton model configs of `asr_streaming` from a `StreamingSpec`.

TensorRT plans are served with Triton's implicit state and a model that converts tokens to text, the
files of all other runtimes with the bundled backend, whose last engine does that too.
"""

from __future__ import annotations

from export.options import SHARED_ENGINES, Serving
from export.pbtxt import HEADER, adapter_parameters, ensemble_scheduling
from export.pbtxt import parameter_list as _parameters
from export.pbtxt import tensor_list as _tensors
from export.spec import STREAMING, StageSpec
from export.streaming import tensorrt_config
from export.streaming.spec import RECOGNIZER, StreamingSpec

_RUNTIMES = {
    "onnxruntime": ("ONNX Runtime", "KIND_CPU"),
    "torch": ("torch", "KIND_MODEL"),
    "tensorrt-rtx": ("TensorRT for RTX", "KIND_MODEL"),
}
"""Title and instance kind of each runtime of the bundled backend."""
_CANDIDATES = 16_384
"""Candidate sequences of a stage; each takes about a kilobyte of memory."""
_THREADS = 1
"""Threads per process: one gives more streams per core than many in one process."""
_QUEUE_COMMENT = "# Chunks arrive one by one; a short wait makes batches, and batches save CPU."
_NO_QUEUE_COMMENT = "# Takes all that wait, and never waits for more: converting text is fast."
_QUEUE_DELAY_MS = {"recognizer": 5, "feature_extractor": 5, "encoder": 2, "decoder": 2, "heads": 2}
"""The first stage collects a batch; the others only wait for the rest of a batch that was split."""

_LENGTHS = ("MEL_LENGTH", "ENCODED_LENGTH", "LABELS")
"""Outputs with which a stage reports that it refused the last chunk of a stream: to the next stage
or, in the case of heads, to the client. The stage with the text answers with an error."""

MAX_ABS = {"AUDIO": 8, "MEL": 64}
"""Stages refuse larger values and NaN, which would stay in the state of the stream.

Samples are in [-1, 1], with a margin for filters that overshoot; the log-mel of such audio stays
within 17. MEL is checked again for clients that call the encoder directly, because int8 scales a
whole batch by its largest value. The range of ENCODED depends on the checkpoint, and ENCODED does
not affect other streams."""


def config_files(spec: StreamingSpec) -> dict[str, str]:
    """Return the text of every config, by its path in the repository."""
    texts = {stage.name: _engine(stage, spec) for stage in spec.engines}
    if spec.detokenizer is not None:
        texts[spec.detokenizer.name] = _detokenizer(spec.detokenizer, spec.serving)
    texts[spec.ensemble.name] = _ensemble(spec)
    return {f"{model}/config.pbtxt": text for model, text in texts.items()}


def _engine(stage: StageSpec, spec: StreamingSpec) -> str:
    if spec.bundled:
        return bundled_config(stage, spec)
    return _tensorrt(stage, spec.serving)


def _header(title: str) -> str:
    return HEADER.format(title=title, source="export/streaming/spec.py")


def bundled_config(stage: StageSpec, spec: StreamingSpec) -> str:
    """Return the config of a stage for the bundled backend."""
    serving = spec.serving
    parameters = {
        "max_streams": str(pool_slots(stage, spec)),
        "state_rows": ", ".join(str(state.rows) for state in stage.states),
        "intra_op_threads": str(_THREADS),
    }
    if spec.runtime in SHARED_ENGINES:
        parameters["runtime"] = spec.runtime
    if serving.own_engines:
        parameters["engine"] = "own"
    if spec.runtime == "torch":
        parameters["device"] = "auto"
    values, length = stage.inputs
    parameters |= {"length_input": length.name, "length_of": values.name}
    if not stage.text:
        parameters["length_output"] = next(
            tensor.name for tensor in stage.outputs if tensor.name in _LENGTHS
        )
    if values.name in MAX_ABS:
        parameters |= {"bounded_inputs": values.name, "max_abs": str(MAX_ABS[values.name])}
    parameters |= adapter_parameters(stage, serving.adapters, STREAMING, spec.checkpoint_sha256)
    # The backend chooses its device: Triton refuses KIND_GPU on a machine without a GPU.
    title, kind = _RUNTIMES[spec.runtime]
    return "\n".join(
        [
            _header(f"{stage.name}, {title}: the state is in the backend's pool."),
            f'name: "{stage.name}"',
            'backend: "earshot"',
            f"max_batch_size: {serving.max_batch_size}",
            _tensors("input", stage.inputs),
            _tensors("output", stage.responses),
            _sequence_batching(serving, _QUEUE_DELAY_MS[stage.role]),
            f"instance_group [ {{ kind: {kind} count: {_instances(stage, spec)} }} ]",
            _parameters(parameters),
        ]
    )


def engine_slots(stage: StageSpec, spec: StreamingSpec) -> int:
    """Return the slots of a GPU engine, which all instances of a stage share by default."""
    sharing = 1 if spec.serving.own_engines else _instances(stage, spec)
    return sharing * pool_slots(stage, spec)


def _instances(stage: StageSpec, spec: StreamingSpec) -> int:
    return spec.serving.encoder_instances if stage.role in ("encoder", RECOGNIZER) else 1


def pool_slots(stage: StageSpec, spec: StreamingSpec) -> int:
    """Return the slots of one instance; Triton assigns a new stream to the one with fewest streams.

    A pool in host memory takes no memory until it is used, so each instance can have slots for all
    streams, and another stage enforces the limit. A pool on a GPU is allocated as a whole, and the
    model of a single stage has to enforce the limit itself, so there the instances divide the
    streams.
    """
    if spec.runtime in SHARED_ENGINES or stage.members:
        return -(-spec.serving.max_streams // _instances(stage, spec))
    return spec.serving.max_streams


def _tensorrt(stage: StageSpec, serving: Serving) -> str:
    return "\n".join(
        [
            _header(f"{stage.name}, TensorRT: the state is in Triton, on the GPU."),
            f'name: "{stage.name}"',
            'platform: "tensorrt_plan"',
            f"max_batch_size: {serving.max_batch_size}",
            _tensors("input", stage.inputs),
            _tensors("output", stage.responses),
            tensorrt_config.sequence_batching(stage, serving) + tensorrt_config.instances(),
            _parameters(tensorrt_config.parameters(serving)),
        ]
    )


def _detokenizer(stage: StageSpec, serving: Serving) -> str:
    return "\n".join(
        [
            _header("Tokens to text. Stateless: the decoder passes on the context."),
            f'name: "{stage.name}"',
            'backend: "earshot"',
            f"max_batch_size: {serving.max_batch_size}",
            _tensors("input", stage.inputs),
            _tensors("output", stage.responses),
            # When Triton stops, a model without sequences refuses every request at once, which
            # would end live streams; a model with sequences serves the open ones to their end.
            "# Sequences although it keeps no state: only they go on while the server drains.",
            _sequence_batching(serving, delay_ms=0),
            "instance_group [ { kind: KIND_CPU count: 1 } ]",
            _parameters({"runtime": "tokenizers"}),
        ]
    )


def _ensemble(spec: StreamingSpec) -> str:
    stage = spec.ensemble
    return "\n".join(
        [
            _header("The model that clients call: one chunk of audio in, its text out."),
            f'name: "{stage.name}"',
            'platform: "ensemble"',
            f"max_batch_size: {spec.serving.max_batch_size}",
            _tensors("input", stage.inputs),
            _tensors("output", stage.responses),
            ensemble_scheduling(spec.steps, stage),
            _parameters(spec.client_parameters),
        ]
    )


def _sequence_batching(serving: Serving, delay_ms: int) -> str:
    return f"""\
sequence_batching {{
  # A client that disappears without END frees its slot after this time.
  max_sequence_idle_microseconds: {serving.sequence_idle_ms * 1000}
  oldest {{
    # Far above the pool's size: a stream beyond the limit reaches the pool, which refuses it with a
    # reason, instead of waiting in Triton's unbounded backlog. If its client never sends END, it
    # stays a candidate until it has been idle for too long.
    max_candidate_sequences: {max(_CANDIDATES, 2 * serving.max_streams)}
    {_QUEUE_COMMENT if delay_ms else _NO_QUEUE_COMMENT}
    max_queue_delay_microseconds: {delay_ms * 1000}
  }}
}}"""
