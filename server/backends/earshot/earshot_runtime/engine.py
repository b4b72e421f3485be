"""Declare the engine of a stage, which computes batches and owns the state of all streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .adapters import AdapterSlots
from .slots import Slots

Arrays = Mapping[str, npt.NDArray[Any]]


class Engine(Protocol):
    """Runs batches; the state of the streams stays on the engine's device.

    There is one slot more than `max_streams`: the state of this spare slot is never needed, so
    several starting rows of a batch may use it.
    """

    @property
    def inputs(self) -> Arrays:
        """Return arrays [max_batch, *dims] in the config's order; a batch fills the first rows."""
        ...

    @property
    def outputs(self) -> Arrays:
        """Return arrays [max_batch, *dims] in the config's order; a run fills the first rows."""
        ...

    def run(
        self,
        slots: Slots,
        starts: npt.NDArray[np.bool_],
        adapters: AdapterSlots | None = None,
    ) -> None:
        """Advance the streams in `slots` [B] by one chunk, those in `starts` from a zero state.

        An error of the underlying library is passed on. The streams then stay as they were, except
        for those that start.

        Args:
            adapters: the slot of each stream's adapter; None if no stream has one.
        """
        ...

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """See `AdapterPools.store_adapter`."""
        ...
