"""Hold the adapters of whole utterances, and the graph that takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .adapter_files import AdapterFile, AdapterFiles
from .adapter_pool import ADAPTER_SLOTS, AdapterPool
from .adapters import NONE, AdapterSlots, LoadedAdapters
from .errors import ChunkError
from .graph import Graph, open_graph
from .spec import AdapterSpec, StageSpec

Array = npt.NDArray[Any]


def open_adapted(folder: Path, spec: StageSpec) -> AdaptedUtterances | None:
    """Open the second graph in `folder`, or raise BadStage; None if the stage takes no adapters."""
    if spec.adapters is None:
        return None
    graph = open_graph(folder / "adapted" / "model.onnx", spec, adapted=True)
    return AdaptedUtterances(graph, spec.adapters, AdapterFiles(folder.parents[1], spec.adapters))


class AdaptedUtterances:
    """The second graph of a stage, for runs in which an utterance has an adapter.

    The adapters of a run stay in memory while it runs; afterwards any of them may make room.
    """

    def __init__(self, graph: Graph, spec: AdapterSpec, files: AdapterFiles) -> None:
        self.loaded = LoadedAdapters(files, self, spec.capacity)
        self._session = graph.session
        self._pools = [
            AdapterPool(name, spec.capacity, *shape)
            for name, shape in zip(graph.adapter_pools, spec.shapes, strict=True)
        ]

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """See `AdapterPools.store_adapter`."""
        for pool, part in zip(self._pools, rows, strict=True):
            pool.store(slot, part)

    def load(
        self, adapters: Mapping[int, AdapterFile | None]
    ) -> tuple[dict[int, int], dict[int, ChunkError]]:
        """Return the slot of the adapter of each utterance, or the error of one without.

        There must be room for all: `LoadedAdapters.capacity`.
        """
        slots: dict[int, int] = {}
        errors: dict[int, ChunkError] = {}
        for key, adapter in adapters.items():
            try:
                in_use = set(slots.values())
                slots[key] = NONE if adapter is None else self.loaded.load(adapter, in_use)
            except ChunkError as error:
                errors[key] = error
        return slots, errors

    def run(
        self, outputs: Sequence[str], feed: Mapping[str, Array], slots: AdapterSlots
    ) -> list[Array]:
        """Return the outputs of the graph; `slots` [B] are those of the utterances' adapters."""
        pools = {pool.name: pool.rows for pool in self._pools}
        results: Any = self._session.run(outputs, {**feed, **pools, ADAPTER_SLOTS: slots})
        return results
