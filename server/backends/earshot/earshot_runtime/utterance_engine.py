"""Declare the engine of a stage without state, which takes whole utterances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .adapters import AdapterSlots

Array = npt.NDArray[Any]


class UtteranceEngine(Protocol):
    """Runs utterances that are padded to the longest of them."""

    def most_rows(self, length: int) -> int:
        """Return the largest number of utterances of this length that a run should have."""
        ...

    def run(self, inputs: Sequence[Array], adapters: AdapterSlots | None = None) -> list[Array]:
        """Return the outputs [rows, ...] for the inputs [rows, ...], both in the config's order.

        An error of the underlying library is passed on.

        Args:
            adapters: the slot of each row's adapter; None if no row has one.
        """
        ...

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """See `AdapterPools.store_adapter`."""
        ...
