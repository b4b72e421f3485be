"""Read a stage's Triton model config: its tensors, limits and parameters.

The config is the contract between export, server and client, so that names, shapes and dtypes are
read from it and not repeated here; only the outputs that are computed from tokens have fixed names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .errors import BadStage

DTYPES: dict[str, type[np.generic]] = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}
TOKENIZERS = "tokenizers"
"""The runtime of a stage that has no engine, and converts tokens to text."""
_ON_DEVICE = ("torch", "tensorrt-rtx")
_SHARED, _OWN = "shared", "own"
"""Values of the parameter `engine`; the default depends on the runtime."""
_TEXT = ("TEXT", "TOKEN_TEXT_LENGTHS")
_TOKENS = ("TOKENS", "TOKEN_FRAMES", "TOKEN_LOGPROBS", "TOKEN_COUNT")


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the config; `dims` leaves out the batch axis, -1 is a free dimension."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int, ...]

    @property
    def is_fixed(self) -> bool:
        """Return True if every dimension is known before a request comes."""
        return all(dim >= 0 for dim in self.dims)


@dataclass(frozen=True)
class SequenceSpec:
    """Limits of a stage that keeps state between the chunks of a stream."""

    max_streams: int
    state_rows: tuple[int, ...]
    """Rows per stream of each state of an ONNX graph; a torch program describes its own."""
    max_idle_s: float


@dataclass(frozen=True)
class AdapterSpec:
    """The adapters that a stage supports."""

    capacity: int
    """Number of adapters in memory at once."""
    parts: tuple[str, ...]
    """Names of the tensors of an adapter's file, one for each pool."""
    shapes: tuple[tuple[int, int], ...]
    """Rows and width of each of them."""
    ensemble: str
    """Suffix of the names of the adapters' folders."""
    base: str
    """Hash of the base weights for which the adapters were installed."""


@dataclass(frozen=True)
class StageSpec:
    """The parts of the model config that a stage uses."""

    model: str
    max_batch: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Outputs of the engine."""
    runtime: str
    device: str
    intra_op_threads: int
    bounded_inputs: tuple[str, ...]
    max_abs: float
    length_input: str | None
    length_of: str | None
    length_output: str | None
    """The output that the next stage takes as its length."""
    lengths: tuple[int, ...]
    """Lengths that `length_of` may have, ascending; empty if any length will do."""
    max_length: int | None
    """Largest length of `length_of`; None for stages that accept any, or have fixed shapes."""
    length_step: int
    """The length of `length_of` must be a multiple of this number."""
    sequence: SequenceSpec | None
    """None for a stage without state, which takes whole utterances."""
    adapters: AdapterSpec | None = None
    """None for a stage that adapters do not change."""
    run_lengths: tuple[int, ...] = ()
    """Lengths to which a torch program pads runs of whole utterances, ascending."""
    max_run_length: int | None = None
    """Largest sum of the padded lengths of the utterances in such a run."""
    text_outputs: tuple[TensorSpec, ...] = ()
    """Outputs that are computed from those of the engine; see `Texts`. They come last."""
    ctc_blank: int | None = None
    """The blank label, if the engine's outputs are the labels of CTC."""
    instances: int = 1
    """Processes in which Triton runs the stage."""
    shares: bool | None = None
    """True if these processes share one engine; None: they do on a GPU, but not on a CPU, whose
    cores processes share anyway."""

    @property
    def full_length(self) -> int:
        """Return the largest valid `length_input`: the first dimension of `length_of`."""
        return next((t.dims[0] for t in self.inputs if t.name == self.length_of), 0)

    @property
    def shares_engine(self) -> bool:
        """Return True if instances send their batches to one engine, in a process of its own."""
        shares = self.runtime in _ON_DEVICE if self.shares is None else self.shares
        return self.sequence is not None and self.instances > 1 and shares

    @property
    def of_engine(self) -> StageSpec:
        """Return the spec of a shared engine: it has the streams and adapters of all instances."""
        assert self.sequence is not None
        count, adapters = self.instances, self.adapters
        return replace(
            self,
            sequence=replace(self.sequence, max_streams=count * self.sequence.max_streams),
            adapters=adapters and replace(adapters, capacity=count * adapters.capacity),
        )

    @cached_property
    def responses(self) -> tuple[str, ...]:
        """Return the names of the outputs of a request."""
        return tuple(tensor.name for tensor in (*self.outputs, *self.text_outputs))

    @classmethod
    def from_model_config(cls, config: Mapping[str, Any]) -> StageSpec:
        """Read Triton's model config, as parsed from JSON, or raise BadStage if it is wrong."""
        model = str(config["name"])
        parameters = _Parameters(model, config.get("parameters", {}))
        inputs = tuple(_tensor(model, entry) for entry in config["input"])
        every = tuple(_tensor(model, entry) for entry in config["output"])
        runtime = parameters.text("runtime") or "onnxruntime"
        ctc_blank = parameters.optional_id("ctc_blank")
        computed = _TEXT if ctc_blank is None else (*_TEXT, *_TOKENS)
        spec = cls(
            model=model,
            max_batch=int(config.get("max_batch_size", 0)),
            inputs=inputs,
            outputs=tuple(tensor for tensor in every if tensor.name not in computed),
            text_outputs=tuple(tensor for tensor in every if tensor.name in computed),
            ctc_blank=ctc_blank,
            runtime=runtime,
            device=parameters.text("device") or "auto",
            intra_op_threads=parameters.count("intra_op_threads", default=1),
            bounded_inputs=parameters.names("bounded_inputs"),
            max_abs=parameters.limit("max_abs"),
            length_input=parameters.text("length_input"),
            length_of=parameters.text("length_of"),
            length_output=parameters.text("length_output"),
            lengths=tuple(sorted(parameters.counts("lengths"))),
            max_length=parameters.optional_count("max_length"),
            length_step=parameters.count("length_step", default=1),
            run_lengths=tuple(sorted(parameters.counts("run_lengths"))),
            max_run_length=parameters.optional_count("max_run_length"),
            sequence=None if runtime == TOKENIZERS else _sequence(model, config, parameters),
            adapters=_adapters(model, parameters),
            instances=sum(int(group["count"]) for group in config.get("instance_group", [])) or 1,
            shares=parameters.either("engine", _SHARED, _OWN),
        )
        _check(spec)
        return spec


class _Parameters:
    """The `parameters` of a model config, where every value is a string."""

    def __init__(self, model: str, entries: Mapping[str, Mapping[str, str]]) -> None:
        self._model = model
        self._values = {key: entry["string_value"] for key, entry in entries.items()}

    def text(self, key: str) -> str | None:
        return self._values.get(key)

    def either(self, key: str, yes: str, no: str) -> bool | None:
        """Return True for `yes`, False for `no`, None without such a parameter."""
        text = self._values.get(key)
        if text not in (None, yes, no):
            raise BadStage(f"{self._model}: parameter '{key}' must be {yes} or {no}, not '{text}'")
        return None if text is None else text == yes

    def names(self, key: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in self._values.get(key, "").split(",") if name.strip())

    def count(self, key: str, *, default: int | None = None) -> int:
        text = self._values.get(key)
        if text is None:
            if default is None:
                raise BadStage(f"{self._model}: the config has no parameter '{key}'")
            return default
        if not text.isdigit() or int(text) < 1:
            raise BadStage(f"{self._model}: parameter '{key}' must be a count >= 1, not '{text}'")
        return int(text)

    def optional_count(self, key: str) -> int | None:
        return self.count(key) if key in self._values else None

    def optional_id(self, key: str) -> int | None:
        text = self._values.get(key)
        if text is not None and not text.isdigit():
            raise BadStage(f"{self._model}: parameter '{key}' must be an id >= 0, not '{text}'")
        return None if text is None else int(text)

    def counts(self, key: str) -> tuple[int, ...]:
        names = self.names(key)
        if not all(name.isdigit() for name in names):
            raise BadStage(
                f"{self._model}: parameter '{key}' must be counts, not '{self._values[key]}'"
            )
        return tuple(map(int, names))

    def limit(self, key: str) -> float:
        text = self._values.get(key)
        if text is None:
            return math.inf
        try:
            limit = float(text)
        except ValueError:
            limit = math.nan
        if not 0 < limit < math.inf:
            raise BadStage(f"{self._model}: parameter '{key}' must be a number > 0, not '{text}'")
        return limit


def _tensor(model: str, entry: Mapping[str, Any]) -> TensorSpec:
    name, data_type = str(entry["name"]), str(entry["data_type"])
    if data_type not in DTYPES:
        raise BadStage(f"{model}: tensor {name} has {data_type}, which this backend cannot serve")
    return TensorSpec(name, np.dtype(DTYPES[data_type]), tuple(int(d) for d in entry["dims"]))


def _sequence(
    model: str, config: Mapping[str, Any], parameters: _Parameters
) -> SequenceSpec | None:
    batching = config.get("sequence_batching")
    if batching is None:
        if parameters.text("state_rows") is not None:
            raise BadStage(f"{model}: the config has no sequence_batching, but state_rows")
        return None
    return SequenceSpec(
        max_streams=parameters.count("max_streams"),
        state_rows=parameters.counts("state_rows"),
        max_idle_s=int(batching["max_sequence_idle_microseconds"]) / 1e6,
    )


def _adapters(model: str, parameters: _Parameters) -> AdapterSpec | None:
    capacity = parameters.optional_count("adapters")
    if capacity is None:
        return None
    parts = parameters.names("adapter_parts")
    rows, widths = parameters.counts("adapter_rows"), parameters.counts("adapter_widths")
    ensemble, base = parameters.text("adapter_ensembles"), parameters.text("adapter_base")
    if not (parts and ensemble and base) or not len(parts) == len(rows) == len(widths):
        raise BadStage(
            f"{model}: the parameter adapters needs adapter_parts, as many adapter_rows and "
            "adapter_widths, adapter_ensembles and adapter_base; export the model again"
        )
    return AdapterSpec(capacity, parts, tuple(zip(rows, widths, strict=True)), ensemble, base)


def _check(spec: StageSpec) -> None:
    if spec.max_batch < 1:
        raise BadStage(f"{spec.model}: max_batch_size must be at least 1")
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.dtype.kind == "O":
            raise BadStage(
                f"{spec.model}: tensor {tensor.name} has TYPE_STRING, which only TEXT may have"
            )
    if (spec.length_input is None) != (spec.length_of is None):
        raise BadStage(f"{spec.model}: parameters length_input and length_of go together")
    if spec.length_output not in (None, *(tensor.name for tensor in spec.outputs)):
        raise BadStage(
            f"{spec.model}: length_output names {spec.length_output}, which is not there"
        )
    if bool(spec.bounded_inputs) != math.isfinite(spec.max_abs):
        raise BadStage(f"{spec.model}: parameters bounded_inputs and max_abs go together")
    inputs = {tensor.name: tensor for tensor in spec.inputs}
    for name in (*spec.bounded_inputs, spec.length_input, spec.length_of):
        if name is not None and name not in inputs:
            raise BadStage(f"{spec.model}: a parameter names the input {name}, which is not there")
    for name in spec.bounded_inputs:
        if inputs[name].dtype.kind != "f":
            raise BadStage(f"{spec.model}: bounded_inputs names {name}, which has no float type")
    if spec.sequence is None:
        if spec.length_input is None and spec.runtime != TOKENIZERS:
            raise BadStage(f"{spec.model}: a stage without state needs the parameter length_input")
    elif not all(t.is_fixed for t in (*spec.inputs, *spec.outputs)):
        raise BadStage(f"{spec.model}: a stage with state needs fixed dims in its config")
