"""Cut a long recording into pieces, in pauses if there are any.

A pause is found by its energy, relative to the quietest and the loudest windows of the last half
minute. This adapts to any level and any steady noise, costs little, and needs no model. Where
speech and pauses cannot be told apart (music, background voices), two pieces overlap instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._pcm import Samples

WINDOW_MS = 20
SHORTEST_PAUSE_MS = 200
OVERLAP_MS = 2000
"""Length of the overlap of two pieces: long enough for a word on both sides of the cut."""

# Anything below is silence: the noise floor of a good microphone, dither.
_SILENCE_DB = -65.0
# The smallest difference between speech and pauses.
_LEAST_CONTRAST_DB = 10.0
# The share of the range from the quietest to the loudest level that counts as a pause.
_PAUSE_SHARE = 0.3


@dataclass(frozen=True)
class Piece:
    """A part of a recording that is short enough for the server."""

    start_sample: int
    """Position of its first sample in the recording, on the grid of the recognizer's frames."""
    samples: Samples
    overlap_samples: int
    """Samples at its beginning that are also the end of the previous piece."""

    @property
    def end_sample(self) -> int:
        """Return the position after its last sample in the recording."""
        return self.start_sample + self.samples.size


class Cutter:
    """Buffers the samples of one recording, at most one piece of them, and cuts it."""

    def __init__(self, sample_rate_hz: int, frame_samples: int, longest_samples: int) -> None:
        self._rate_hz = sample_rate_hz
        self._grid = frame_samples
        self._buffer = np.zeros(longest_samples - longest_samples % frame_samples, np.float32)
        self._filled = 0
        self._start = 0
        self._overlap = 0

    def push(self, samples: Samples) -> Iterator[Piece]:
        """Add samples [n]; yield each piece that they complete."""
        taken = 0
        while taken < samples.size:
            # Not as soon as it is full: the samples that fill the buffer may be the last ones.
            if self._filled == self._buffer.size:
                yield self._cut()
            count = min(self._buffer.size - self._filled, samples.size - taken)
            self._buffer[self._filled : self._filled + count] = samples[taken : taken + count]
            self._filled += count
            taken += count

    def end(self) -> Iterator[Piece]:
        """Yield the last piece, unless there was no audio at all."""
        if self._filled:
            yield self._piece(self._filled)

    def _cut(self) -> Piece:
        """Return the piece up to the best pause in the second half of the buffer."""
        half = self._buffer.size // 2
        pause = find_pause(self._buffer, self._rate_hz, half)
        if pause is None:
            return self._take(self._filled, self._longest_overlap())
        return self._take(max(pause // self._grid * self._grid, self._grid), 0)

    def _longest_overlap(self) -> int:
        wanted = min(OVERLAP_MS * self._rate_hz // 1000, self._buffer.size // 4)
        return wanted // self._grid * self._grid

    def _take(self, end: int, overlap: int) -> Piece:
        piece = self._piece(end)
        kept_from = end - overlap
        kept = self._filled - kept_from
        self._buffer[:kept] = self._buffer[kept_from : self._filled].copy()
        self._filled = kept
        self._start += kept_from
        self._overlap = overlap
        return piece

    def _piece(self, end: int) -> Piece:
        return Piece(self._start, self._buffer[:end].copy(), self._overlap)


def find_pause(samples: Samples, sample_rate_hz: int, first_sample: int) -> int | None:
    """Return the middle of the longest pause after `first_sample`; of equally long ones, the last.

    Return None if there is no pause, or if speech and pauses cannot be told apart.
    """
    window = WINDOW_MS * sample_rate_hz // 1000
    levels_db = _levels_db(samples, window)
    quiet_db, loud_db = np.percentile(levels_db, (10, 98))
    contrast_db = loud_db - quiet_db
    if contrast_db < _LEAST_CONTRAST_DB and loud_db > _SILENCE_DB:
        return None
    silent = levels_db <= quiet_db + _PAUSE_SHARE * contrast_db
    first = first_sample // window
    length, start = max((stop - start, start) for start, stop in [(0, 0), *_runs(silent[first:])])
    if length * WINDOW_MS < SHORTEST_PAUSE_MS:
        return None
    return (2 * (first + start) + length) * window // 2


def _levels_db(samples: Samples, window: int) -> npt.NDArray[np.float64]:
    """Return the level of each window [samples / window] in dBFS, clipped at that of silence."""
    whole = samples[: samples.size // window * window].reshape(-1, window)
    power = np.mean(np.square(whole, dtype=np.float64), axis=1)
    return np.maximum(10 * np.log10(power + 1e-12), _SILENCE_DB)


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the start and stop of each run of true values."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
