"""Write the Triton model configs of `asr_offline` from an `OfflineSpec`.

TensorRT plans are served by Triton's own backend, the files of all other runtimes by the bundled
one, which also converts tokens to text. The decoder of a transducer is never a plan: its loop over
the frames runs in ONNX Runtime, on the CPU. For torch, all stages are one model.
"""

from __future__ import annotations

from export.audio import HOP_SAMPLES, SAMPLE_RATE_HZ
from export.offline.spec import OfflineSpec
from export.pbtxt import (
    HEADER,
    adapter_parameters,
    ensemble_scheduling,
    parameter_list,
    tensor_list,
)
from export.spec import OFFLINE, StageSpec

_QUEUE_DELAY_MS = {
    "recognizer_offline": 20,
    "feature_extractor_offline": 20,
    "encoder_offline": 5,
    "decoder_offline": 5,
}
"""The first stage collects a batch; the others only wait for the rest of a batch that was split."""
_MOST_AUDIO_S = 2048
"""Largest padded audio of a run on torch: 256 utterances of 8 s, or 64 of 30 s. That fills the
largest GPU, and keeps every tensor of the largest encoders below the 2^31 elements of kernels with
32-bit indices: after the first convolution a second is 50 frames, each of 64 bins and 256
channels."""


def config_files(spec: OfflineSpec) -> dict[str, str]:
    """Return the text of every config, by its path in the repository."""
    texts = {stage.name: _engine(stage, spec) for stage in spec.engines}
    if spec.detokenizer is not None:
        texts[spec.detokenizer.name] = _detokenizer(spec.detokenizer, spec)
    texts[spec.ensemble.name] = _ensemble(spec)
    return {f"{model}/config.pbtxt": text for model, text in texts.items()}


def _engine(stage: StageSpec, spec: OfflineSpec) -> str:
    if spec.fused:
        return _torch(stage, spec)
    if spec.runtime == "onnxruntime" or spec.is_loop(stage):
        return _onnxruntime(stage, spec)
    return _tensorrt(stage, spec)


def _header(title: str) -> str:
    return HEADER.format(title=title, source="export/offline/spec.py")


def _onnxruntime(stage: StageSpec, spec: OfflineSpec) -> str:
    # If all other stages are engines, the decoder of a transducer is the only stage on the CPU.
    busiest = "decoder_offline" if spec.runtime == "tensorrt" else "encoder_offline"
    instances = spec.serving.encoder_instances if stage.role == busiest else 1
    group = f"kind: KIND_CPU count: {instances}"
    return _bundled(stage, spec, "ONNX Runtime", group, _stage_parameters(stage, spec))


def _torch(stage: StageSpec, spec: OfflineSpec) -> str:
    parameters = _stage_parameters(stage, spec) | {
        "runtime": spec.runtime,
        "device": "auto",
        "run_lengths": ",".join(map(str, spec.run_samples)),
        "max_run_length": str(_MOST_AUDIO_S * SAMPLE_RATE_HZ),
    }
    if spec.ctc_blank is None:
        parameters["length_output"] = "TOKEN_COUNT"
    # The backend chooses its device: Triton refuses KIND_GPU on a machine without a GPU.
    group = f"kind: KIND_MODEL count: {spec.serving.encoder_instances}"
    return _bundled(stage, spec, "torch", group, parameters)


def _bundled(
    stage: StageSpec, spec: OfflineSpec, runtime: str, group: str, parameters: dict[str, str]
) -> str:
    """Return the config of a model for the bundled backend."""
    return "\n".join(
        [
            _header(f"{stage.name}, {runtime}: whole utterances, no state."),
            f'name: "{stage.name}"',
            'backend: "earshot"',
            f"max_batch_size: {spec.serving.max_batch_size}",
            "# The backend itself packs utterances of similar length, so a batch may hold any.",
            tensor_list("input", stage.inputs, ragged=True),
            tensor_list("output", stage.responses),
            _dynamic_batching(stage),
            f"instance_group [ {{ {group} }} ]",
            parameter_list(parameters),
        ]
    )


def _stage_parameters(stage: StageSpec, spec: OfflineSpec) -> dict[str, str]:
    values, length = stage.inputs
    parameters = {
        "intra_op_threads": "1",
        "length_input": length.name,
        "length_of": values.name,
    }
    if stage.inputs == spec.audio:
        # Audio from clients is checked here: samples in [-1, 1], with a margin for filters that
        # overshoot, no NaN and no value that would overflow.
        parameters |= {
            "bounded_inputs": values.name,
            "max_abs": "8",
            "lengths": ",".join(map(str, spec.buckets_samples)),
            "length_step": str(HOP_SAMPLES),
        }
    else:
        # So that no client that calls the stage by name can make it allocate more than the longest
        # bucket needs.
        parameters["max_length"] = str(max(spec.lengths(stage.inputs)))
    if stage.text:
        parameters |= _ctc_parameters(spec)
    adapters = spec.serving.adapters
    return parameters | adapter_parameters(stage, adapters, OFFLINE, spec.checkpoint_sha256)


def _ctc_parameters(spec: OfflineSpec) -> dict[str, str]:
    return {} if spec.ctc_blank is None else {"ctc_blank": str(spec.ctc_blank)}


def _tensorrt(stage: StageSpec, spec: OfflineSpec) -> str:
    profiles = ", ".join(f'"{index}"' for index in range(len(spec.buckets_ms)))
    return "\n".join(
        [
            _header(f"{stage.name}, TensorRT: whole utterances, no state."),
            f'name: "{stage.name}"',
            'platform: "tensorrt_plan"',
            f"max_batch_size: {spec.serving.max_batch_size}",
            "# The batcher joins utterances of equal shape only, and clients pad to the buckets: a",
            "# batch is of one bucket, and each bucket has a profile that is tuned for it alone.",
            tensor_list("input", stage.inputs),
            tensor_list("output", stage.responses),
            _dynamic_batching(stage),
            "# One GPU: the memory is computed for one; for more GPUs run more replicas.",
            f"instance_group [ {{ kind: KIND_GPU count: 1 gpus: [ 0 ] profile: [ {profiles} ] }} ]",
            "",
        ]
    )


def _dynamic_batching(stage: StageSpec) -> str:
    return f"""\
dynamic_batching {{
  # No preferred sizes: a batch takes all requests that arrived while the last one ran, up to the
  # largest batch; a preferred size would leave some of them waiting.
  # Files are less urgent than live speech: this wait is short compared with their length.
  max_queue_delay_microseconds: {_QUEUE_DELAY_MS[stage.role] * 1000}
}}"""


def _detokenizer(stage: StageSpec, spec: OfflineSpec) -> str:
    return "\n".join(
        [
            _header("Tokens to text."),
            f'name: "{stage.name}"',
            'backend: "earshot"',
            f"max_batch_size: {spec.serving.max_batch_size}",
            tensor_list("input", stage.inputs, ragged=True),
            tensor_list("output", stage.responses),
            "# Takes all requests in the queue, and never waits for more: converting text is fast.",
            "dynamic_batching { }",
            "instance_group [ { kind: KIND_CPU count: 1 } ]",
            parameter_list({"runtime": "tokenizers", **_ctc_parameters(spec)}),
        ]
    )


def _ensemble(spec: OfflineSpec) -> str:
    stage = spec.ensemble
    return "\n".join(
        [
            _header("The model that clients call: one utterance in, its text out."),
            f'name: "{stage.name}"',
            'platform: "ensemble"',
            f"max_batch_size: {spec.serving.max_batch_size}",
            tensor_list("input", stage.inputs),
            tensor_list("output", stage.responses),
            ensemble_scheduling(spec.steps, stage),
            parameter_list(spec.client_parameters),
        ]
    )
