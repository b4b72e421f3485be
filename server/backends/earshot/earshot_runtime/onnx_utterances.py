"""Run whole utterances on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .adapter_pool import ADAPTER_SLOTS, AdapterPool
from .adapters import AdapterSlots
from .graph import open_graph
from .spec import StageSpec
from .utterance_engine import Array

_ADAPTED = "adapted"
_MOST_ROWS = 16
"""More rows in a run would save no time on a CPU core, and take more memory."""


class OnnxUtterances:
    """Implements `UtteranceEngine` on the CPU, with a second graph for utterances with adapters."""

    def __init__(self, path: Path, spec: StageSpec) -> None:
        """Open the graph at `path`, and the one with adapters beside it, or raise BadStage."""
        self._base = self._adapted = open_graph(path, spec).session
        self._inputs = [tensor.name for tensor in spec.inputs]
        self._outputs = [tensor.name for tensor in spec.outputs]
        self._pools: list[AdapterPool] = []
        if spec.adapters is not None:
            adapted = open_graph(path.parent / _ADAPTED / path.name, spec, adapted=True)
            self._adapted = adapted.session
            self._pools = [
                AdapterPool(name, spec.adapters.capacity, *shape)
                for name, shape in zip(adapted.adapter_pools, spec.adapters.shapes, strict=True)
            ]

    def most_rows(self, length: int) -> int:
        """See `UtteranceEngine.most_rows`; the length does not matter."""
        return _MOST_ROWS

    def run(self, inputs: Sequence[Array], adapters: AdapterSlots | None = None) -> list[Array]:
        """See `UtteranceEngine.run`."""
        feed = dict(zip(self._inputs, inputs, strict=True))
        session = self._base
        if adapters is not None:
            session = self._adapted
            feed |= {pool.name: pool.rows for pool in self._pools} | {ADAPTER_SLOTS: adapters}
        outputs: Any = session.run(self._outputs, feed)
        return outputs

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """See `AdapterPools.store_adapter`."""
        for pool, part in zip(self._pools, rows, strict=True):
            pool.store(slot, part)
