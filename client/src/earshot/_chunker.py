"""Cut a stream of samples into the chunks that are sent.

A stream is `lead_samples` zeros, the audio, and zeros up to a whole number of chunks. Chunk borders
depend on the number of samples alone, not on the pieces in which the audio was passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Chunk(NamedTuple):
    """The audio of one step of the recognizer."""

    audio: bytes
    """float32 [chunk_samples], little-endian."""
    length: int
    """Samples before the padding, including the leading zeros of the stream."""
    last: bool


class Chunker:
    """Buffers the samples of one stream until they fill a chunk."""

    def __init__(self, chunk_samples: int, lead_samples: int) -> None:
        self._buffer = np.zeros(chunk_samples, dtype="<f4")
        self._filled = lead_samples

    def push(self, samples: npt.NDArray[np.float32]) -> Iterator[Chunk]:
        """Add samples [n]; yield each chunk as soon as it is full."""
        size = self._buffer.size
        taken = 0
        while taken < samples.size:
            count = min(size - self._filled, samples.size - taken)
            self._buffer[self._filled : self._filled + count] = samples[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == size:
                self._filled = 0
                yield Chunk(self._buffer.tobytes(), size, last=False)

    @property
    def missing(self) -> int:
        """Return the number of samples that would complete the current chunk."""
        return self._buffer.size - self._filled

    def end(self) -> Chunk:
        """Return the last chunk: the remaining samples, possibly none."""
        self._buffer[self._filled :] = 0.0
        return Chunk(self._buffer.tobytes(), self._filled, last=True)
