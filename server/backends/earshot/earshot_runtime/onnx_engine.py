"""Run a stage on ONNX Runtime; arrays are bound by address, so that a run copies nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .adapter_pool import ADAPTER_SLOTS, AdapterPool
from .adapters import AdapterSlots
from .binding import bind_input, bind_output
from .engine import Arrays
from .graph import Graph, open_graph
from .slots import Slots
from .spec import StageSpec, TensorSpec
from .state import SLOTS, StatePool

# Each further power of two would double the duration of the warm-up.
_MAX_WARM_UP_BATCH = 16
_FILE = "model.onnx"
_ADAPTED = "adapted"


class OnnxEngine:
    """Engine of an ONNX graph on the CPU; a stage with adapters has a second graph for them."""

    def __init__(self, folder: Path, spec: StageSpec) -> None:
        """Open the graphs in `folder` and allocate all memory, or raise BadStage."""
        assert spec.sequence is not None
        streams = spec.sequence.max_streams
        graph = open_graph(folder / _FILE, spec)
        self.inputs: Arrays = _allocate(spec.inputs, spec.max_batch)
        self.outputs: Arrays = _allocate(spec.outputs, spec.max_batch)
        self._slots = np.zeros(spec.max_batch, np.int64)
        self._states = [StatePool(state, streams + 1, spec.max_batch) for state in graph.states]
        self._base = BoundGraph(graph, self._bind)
        self._adapted = self._base
        self._adapter_slots = np.zeros(spec.max_batch, np.int64)
        self._adapter_pools: list[AdapterPool] = []
        if spec.adapters is not None:
            adapted = open_graph(folder / _ADAPTED / _FILE, spec, adapted=True)
            self._adapted = BoundGraph(adapted, self._bind_with_adapters)
            self._adapter_pools = [
                AdapterPool(name, spec.adapters.capacity, *shape)
                for name, shape in zip(adapted.adapter_pools, spec.adapters.shapes, strict=True)
            ]
        for bound in {self._base, self._adapted}:
            bound.warm_up(spec.max_batch)

    def run(
        self, slots: Slots, starts: npt.NDArray[np.bool_], adapters: AdapterSlots | None = None
    ) -> None:
        """Advance the streams in `slots`; see `Engine.run`."""
        batch = len(slots)
        self._slots[:batch] = slots
        for state in self._states:
            state.clear(slots[starts])
        if adapters is None:
            self._base.run(batch)
        else:
            self._adapter_slots[:batch] = adapters
            self._adapted.run(batch)
        for state in self._states:
            state.store(slots)

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """See `AdapterPools.store_adapter`."""
        for pool, part in zip(self._adapter_pools, rows, strict=True):
            pool.store(slot, part)

    def _bind(self, binding: ort.IOBinding, batch: int) -> None:
        for name, array in self.inputs.items():
            bind_input(binding, name, array[:batch])
        for name, array in self.outputs.items():
            bind_output(binding, name, array[:batch])
        bind_input(binding, SLOTS, self._slots[:batch])
        for state in self._states:
            state.bind(binding, batch)

    def _bind_with_adapters(self, binding: ort.IOBinding, batch: int) -> None:
        self._bind(binding, batch)
        bind_input(binding, ADAPTER_SLOTS, self._adapter_slots[:batch])
        for pool in self._adapter_pools:
            pool.bind(binding)


class BoundGraph:
    """A graph with its arrays bound for each batch size, by `bind`."""

    def __init__(self, graph: Graph, bind: Callable[[ort.IOBinding, int], None]) -> None:
        self._session = graph.session
        self._bind = bind
        self._bindings: dict[int, ort.IOBinding] = {}

    def warm_up(self, max_batch: int) -> None:
        """Run batches of powers of two: ONNX Runtime plans and allocates on a size's first run."""
        batch = 1
        while batch <= min(max_batch, _MAX_WARM_UP_BATCH):
            self.run(batch)
            batch *= 2

    def run(self, batch: int) -> None:
        """Run the first `batch` rows of the arrays."""
        binding = self._bindings.get(batch)
        if binding is None:
            binding = self._bindings[batch] = self._session.io_binding()
            self._bind(binding, batch)
        self._session.run_with_iobinding(binding)


def _allocate(tensors: tuple[TensorSpec, ...], batch: int) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: np.zeros((batch, *tensor.dims), tensor.dtype) for tensor in tensors}
