"""Keep the state of all streams in a pool, and bind it to the graph of a stage.

A stage with state is a graph in pooled form. It reads the state of its batch from the pool itself
and returns only the rows that changed:

    inputs    POOL         (slots * rows, width)   the state of all streams, `rows` rows each
              SLOTS        (B,) int64              which slots the batch is about
    outputs   UPDATE       (B, U, width)           new values ...
              UPDATE_ROWS  (B, U) int64            ... and the rows of each stream they belong to

A graph of several fused stages has these tensors once for each stage, with `_` and the stage's name
in capitals appended to their names.

A stream starts with zeros. The operating system allocates a page of np.zeros when it is first used,
so a pool takes the memory of the largest number of streams that were ever live at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from .binding import bind_input, bind_output
from .slots import Slots

POOL, SLOTS = "POOL", "SLOTS"
UPDATE, UPDATE_ROWS = "UPDATE", "UPDATE_ROWS"


@dataclass(frozen=True)
class StateSpec:
    """Shape of one stream's state, and the number of rows that a chunk changes."""

    suffix: str
    """Suffix of the names of the graph's tensors; empty if the graph has one state."""
    rows: int
    width: int
    update_rows: int
    dtype: np.dtype[Any]


class StatePool:
    """State of all streams, and the arrays that hold the updates of a batch."""

    def __init__(self, spec: StateSpec, slots: int, max_batch: int) -> None:
        self._suffix = spec.suffix
        self._pool = np.zeros((slots, spec.rows, spec.width), spec.dtype)
        self._update = np.zeros((max_batch, spec.update_rows, spec.width), spec.dtype)
        self._update_rows = np.zeros((max_batch, spec.update_rows), np.int64)

    def bind(self, binding: ort.IOBinding, batch: int) -> None:
        """Bind the graph's state tensors for runs of `batch` rows."""
        pool = self._pool.reshape(-1, self._pool.shape[-1])
        bind_input(binding, POOL + self._suffix, pool)
        bind_output(binding, UPDATE + self._suffix, self._update[:batch])
        bind_output(binding, UPDATE_ROWS + self._suffix, self._update_rows[:batch])

    def clear(self, slots: Slots) -> None:
        """Set the state of streams that start to zero."""
        self._pool[slots] = 0

    def store(self, slots: Slots) -> None:
        """Write the rows that the last run changed to the streams' slots."""
        batch = len(slots)
        self._pool[slots[:, np.newaxis], self._update_rows[:batch]] = self._update[:batch]
