"""What a stage needs of whatever computes it; the engine owns the state of all streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .slots import Slots

Arrays = Mapping[str, npt.NDArray[Any]]


class Engine(Protocol):
    """Runs batches; the state lies where the engine computes and never leaves it."""

    @property
    def inputs(self) -> Arrays:
        """Arrays [max_batch, *dims] in the config's order: the rows of a batch go to the front."""
        ...

    @property
    def outputs(self) -> Arrays:
        """Arrays [max_batch, *dims] in the config's order: a run fills the front."""
        ...

    def run(self, slots: Slots, starts: npt.NDArray[np.bool_]) -> None:
        """Advances the streams in `slots` [B] by one chunk; those that start, from zeros.

        Raises whatever the library underneath raises; the streams then stay as they were, but for
        those that start.
        """
        ...
