"""Cuts a long recording into pieces, where nobody speaks if there is such a place.

A pause is found by its energy, measured against the recording itself: the quietest and the loudest
of the last half minute. That follows any level and any steady noise, costs nothing, and needs no
model. Where nothing stands out (music, a crowd), it says so, and the cut becomes an overlap.
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
"""Heard twice where there is no pause: long enough for a word on both sides of the cut."""

# Quieter is silence, whatever it consists of: the noise floor of a good microphone, dither.
_SILENCE_DB = -65.0
# Speech rises at least so far above its pauses.
_LEAST_CONTRAST_DB = 10.0
# A pause reaches so far up from the quietest to the loudest.
_PAUSE_SHARE = 0.3


@dataclass(frozen=True)
class Piece:
    """A part of a recording, short enough for the server."""

    start_sample: int
    """Where it begins in the recording: on the grid of the recognizer's frames."""
    samples: Samples
    overlap_samples: int
    """So much of its beginning is also the end of the piece before."""

    @property
    def end_sample(self) -> int:
        """Where it ends in the recording."""
        return self.start_sample + self.samples.size


class Cutter:
    """Holds the samples of one recording that are not cut off yet: no more than one piece."""

    def __init__(self, sample_rate_hz: int, frame_samples: int, longest_samples: int) -> None:
        self._rate_hz = sample_rate_hz
        self._grid = frame_samples
        self._buffer = np.zeros(longest_samples - longest_samples % frame_samples, np.float32)
        self._filled = 0
        self._start = 0
        self._overlap = 0

    def push(self, samples: Samples) -> Iterator[Piece]:
        """Takes samples [n] and yields each piece that they complete."""
        taken = 0
        while taken < samples.size:
            # Only now: what just fills the buffer may be all that there is.
            if self._filled == self._buffer.size:
                yield self._cut()
            count = min(self._buffer.size - self._filled, samples.size - taken)
            self._buffer[self._filled : self._filled + count] = samples[taken : taken + count]
            self._filled += count
            taken += count

    def end(self) -> Iterator[Piece]:
        """The last piece, unless there was no audio at all."""
        if self._filled:
            yield self._piece(self._filled)

    def _cut(self) -> Piece:
        """The piece up to the best pause in the later half of the buffer."""
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
    """The middle of the longest pause after `first_sample`, of equally long ones the last.

    None if there is no pause, or if speech and pauses cannot be told apart.
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
    """Level of each window [samples / window] in dB of full scale, silence all alike."""
    whole = samples[: samples.size // window * window].reshape(-1, window)
    power = np.mean(np.square(whole, dtype=np.float64), axis=1)
    return np.maximum(10 * np.log10(power + 1e-12), _SILENCE_DB)


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and stop of each run of true."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
