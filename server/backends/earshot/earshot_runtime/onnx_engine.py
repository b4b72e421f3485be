"""Run a stage on ONNX Runtime; arrays are bound by address, so that a run copies nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .binding import bind_input, bind_output
from .engine import Arrays
from .graph import open_graph
from .slots import Slots
from .spec import StageSpec, TensorSpec
from .state import SLOTS, StatePool

# Each further power of two would double the time of the warm-up.
_MAX_WARM_UP_BATCH = 16


class OnnxEngine:
    """Engine of an ONNX graph on the CPU."""

    def __init__(self, path: Path, spec: StageSpec) -> None:
        """Open the graph and allocate all memory, or raise BadStage."""
        assert spec.sequence is not None
        streams = spec.sequence.max_streams
        graph = open_graph(path, spec)
        self._session = graph.session
        self.inputs: Arrays = _allocate(spec.inputs, spec.max_batch)
        self.outputs: Arrays = _allocate(spec.outputs, spec.max_batch)
        self._slots = np.zeros(spec.max_batch, np.int64)
        self._states = [StatePool(state, streams, spec.max_batch) for state in graph.states]
        self._bindings: dict[int, ort.IOBinding] = {}
        self._warm_up(spec.max_batch)

    def _warm_up(self, max_batch: int) -> None:
        """Run powers of two: ONNX Runtime plans and allocates on the first run of a batch size."""
        batch = 1
        while batch <= min(max_batch, _MAX_WARM_UP_BATCH):
            self._run(batch)
            batch *= 2

    def run(self, slots: Slots, starts: npt.NDArray[np.bool_]) -> None:
        """Advance the streams in `slots`; see `Engine.run`."""
        self._slots[: len(slots)] = slots
        for state in self._states:
            state.clear(slots[starts])
        self._run(len(slots))
        for state in self._states:
            state.store(slots)

    def _run(self, batch: int) -> None:
        binding = self._bindings.get(batch)
        if binding is None:
            binding = self._bindings[batch] = self._bind(batch)
        self._session.run_with_iobinding(binding)

    def _bind(self, batch: int) -> ort.IOBinding:
        binding = self._session.io_binding()
        for name, array in self.inputs.items():
            bind_input(binding, name, array[:batch])
        for name, array in self.outputs.items():
            bind_output(binding, name, array[:batch])
        bind_input(binding, SLOTS, self._slots[:batch])
        for state in self._states:
            state.bind(binding, batch)
        return binding


def _allocate(tensors: tuple[TensorSpec, ...], batch: int) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: np.zeros((batch, *tensor.dims), tensor.dtype) for tensor in tensors}
