"""Check chunks before they run in a batch with others.

A NaN, or a finite value so large that the stage overflows, would stay in the state of its stream,
and would spread to the rest of the batch in a quantized stage. Such a chunk is refused, and its
stream stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ChunkError, InvalidChunk, NotFinite
from .slots import Slots
from .spec import StageSpec

Arrays = Mapping[str, npt.NDArray[Any]]
Errors = dict[int, ChunkError]


class ContentChecks:
    """Checks each row of a batch: values within bounds, lengths that fit the chunk."""

    def __init__(self, spec: StageSpec) -> None:
        self._bounded_inputs = spec.bounded_inputs
        self._max_abs = spec.max_abs
        self._length_input = spec.length_input
        self._length_of = spec.length_of

    def reject(self, inputs: Arrays) -> Errors:
        """Return an error for each row that must not run. Shapes: (B, *dims)."""
        errors: Errors = {}
        for name in self._bounded_inputs:
            errors |= self._reject_values(name, inputs[name])
        if self._length_input is not None and self._length_of is not None:
            full = inputs[self._length_of].shape[1]
            errors |= self._reject_lengths(inputs[self._length_input].ravel(), full)
        return errors

    def _reject_values(self, name: str, values: npt.NDArray[Any]) -> Errors:
        rows = values.reshape(len(values), -1)
        # Both extremes instead of abs(): no copy of the batch. A NaN becomes its row's peak.
        peaks = np.maximum(rows.max(axis=1), -rows.min(axis=1))
        within = peaks <= self._max_abs  # false for NaN
        if within.all():
            return {}
        return {int(row): self._out_of_bounds(name, peaks[row]) for row in np.flatnonzero(~within)}

    def _out_of_bounds(self, name: str, peak: np.floating[Any]) -> InvalidChunk:
        got = "holds NaN" if np.isnan(peak) else f"peaks at {peak:g}"
        return InvalidChunk(
            f"{name} {got}: its values must lie in -{self._max_abs:g}..{self._max_abs:g}"
        )

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


def reject_outputs(outputs: Arrays) -> Errors:
    """Return an error for each row of a batch of outputs that holds NaN or infinity."""
    errors: Errors = {}
    for name, values in outputs.items():
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        errors |= {int(row): _not_finite(name) for row in np.flatnonzero(~finite)}
    return errors


def _not_finite(name: str) -> NotFinite:
    return NotFinite(
        f"{name} holds NaN or infinity: the weights of the model, or the stream's state, are "
        "damaged; export the model again if new streams fail alike"
    )


def reject_length(spec: StageSpec, length: int) -> InvalidChunk | None:
    """Return an error for an utterance whose padded length the stage does not accept."""
    if not spec.lengths:
        if length >= 1 and (spec.max_length is None or length <= spec.max_length):
            return None
        most = "any" if spec.max_length is None else spec.max_length
        return InvalidChunk(
            f"{spec.length_of} has a length of {length}, which must lie in 1..{most}"
        )
    if length in spec.lengths:
        return None
    lengths = ", ".join(map(str, spec.lengths))
    what_to_do = "pad it with zeros" if length < spec.lengths[-1] else "cut it into pieces"
    return InvalidChunk(f"{spec.length_of} has a length of {length}, not {lengths}: {what_to_do}")


class AudioEnds:
    """Remembers the streams whose audio has ended: those that sent a chunk that was not full.

    This also holds after the first stage: a stage turns a full chunk into a full one and an empty
    chunk into an empty one, so only the last chunk with audio of a stream can be short.
    """

    def __init__(self, spec: StageSpec, capacity: int) -> None:
        self._length_input = spec.length_input
        self._full = spec.full_length
        self._ended = np.zeros(capacity, np.bool_)

    def reject(self, inputs: Arrays, slots: Slots, starts: npt.NDArray[np.bool_]) -> Errors:
        """Return an error for each row with audio for a stream whose audio has ended."""
        if self._length_input is None:
            return {}
        lengths = inputs[self._length_input].ravel()
        late = self._ended[slots] & (lengths > 0) & ~starts
        if not late.any():
            return {}
        return {
            int(row): InvalidChunk(
                f"{self._length_input} is {lengths[row]}, but this stream's audio has ended: an "
                f"earlier chunk had less than the full {self._full}; start a new stream"
            )
            for row in np.flatnonzero(late)
        }

    def store(self, inputs: Arrays, slots: Slots) -> None:
        """Remember which of the rows that have just run ended the audio of their stream."""
        if self._length_input is not None:
            self._ended[slots] = inputs[self._length_input].ravel() < self._full
