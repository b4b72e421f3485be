"""What a chunk must satisfy before it may meet the others of its batch.

One NaN would spread through a stream's state for good, so such a chunk is refused while the
stream itself stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ChunkError, InvalidChunk
from .slots import Slots
from .spec import StageSpec

Arrays = Mapping[str, npt.NDArray[Any]]
Errors = dict[int, ChunkError]


class ContentChecks:
    """Checks each row of a batch by itself: finite audio, lengths that fit the chunk."""

    def __init__(self, spec: StageSpec) -> None:
        self._finite_inputs = spec.finite_inputs
        self._length_input = spec.length_input
        self._length_of = spec.length_of

    def reject(self, inputs: Arrays) -> Errors:
        """An error for each row that must not run. Shapes: (B, *dims)."""
        errors: Errors = {}
        for name in self._finite_inputs:
            finite = np.isfinite(inputs[name])
            if not finite.all():
                for row in np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1)):
                    errors[int(row)] = InvalidChunk(f"{name} holds NaN or infinite values")
        if self._length_input is not None and self._length_of is not None:
            errors |= self._reject_lengths(
                inputs[self._length_input].ravel(), full=inputs[self._length_of].shape[-1]
            )
        return errors

    def _reject_lengths(self, lengths: npt.NDArray[Any], full: int) -> Errors:
        wrong = (lengths < 0) | (lengths > full)
        if not wrong.any():
            return {}
        return {
            int(row): InvalidChunk(
                f"{self._length_input} must lie in 0..{full}, not {lengths[row]}"
            )
            for row in np.flatnonzero(wrong)
        }


class AudioEnds:
    """Remembers which streams had a chunk that was not full: their audio has ended."""

    def __init__(self, spec: StageSpec, capacity: int) -> None:
        self._length_input = spec.length_input
        self._full = next((t.dims[-1] for t in spec.inputs if t.name == spec.length_of), 0)
        self._ended = np.zeros(capacity, np.bool_)

    def reject(self, inputs: Arrays, slots: Slots, starts: npt.NDArray[np.bool_]) -> Errors:
        """An error for each row that brings audio to a stream whose audio has ended."""
        if self._length_input is None:
            return {}
        lengths = inputs[self._length_input].ravel()
        late = self._ended[slots] & (lengths > 0) & ~starts
        if not late.any():
            return {}
        return {
            int(row): InvalidChunk(
                f"{self._length_input} is {lengths[row]}, but this stream's audio has ended: an "
                f"earlier chunk had fewer than {self._full} samples; start a new stream"
            )
            for row in np.flatnonzero(late)
        }

    def store(self, inputs: Arrays, slots: Slots) -> None:
        """Notes the ends that the rows just run have brought."""
        if self._length_input is not None:
            self._ended[slots] = inputs[self._length_input].ravel() < self._full
