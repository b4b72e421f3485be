"""Keep the adapters in memory in a pool, and bind it to the graph of a stage.

A stage with adapters has a second graph with two more inputs:

    ADAPTER_POOL   (adapters * rows, width)   the matrices of all adapters, `rows` rows each
    ADAPTER_SLOTS  (B,) int64                 the adapter of each stream of the batch

A graph of several fused stages has a pool for each stage that adapters change, named like the pools
of states. The first adapter is zero and changes nothing. As with states, a page of memory is
allocated when an adapter is first written to it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .binding import bind_input

ADAPTER_POOL, ADAPTER_SLOTS = "ADAPTER_POOL", "ADAPTER_SLOTS"


class AdapterPool:
    """The parts of all adapters that change one stage of a graph."""

    def __init__(self, name: str, capacity: int, rows: int, width: int) -> None:
        self.name = name
        self._pool = np.zeros((capacity + 1, rows, width), np.float32)

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """Return the graph's input [adapters * rows, width], a view of the pool."""
        return self._pool.reshape(-1, self._pool.shape[-1])

    def bind(self, binding: ort.IOBinding) -> None:
        """Bind the graph's input."""
        bind_input(binding, self.name, self.rows)

    def store(self, slot: int, rows: npt.NDArray[np.float32]) -> None:
        """Write an adapter [rows, width] into a slot."""
        self._pool[slot] = rows
