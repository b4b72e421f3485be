"""Cuts a stream of samples into the chunks that go on the wire.

A stream is `lead_samples` zeros + audio + zeros up to a whole number of chunks. Where one chunk
ends and the next begins depends on the number of samples alone, never on the pieces they came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Chunk(NamedTuple):
    """One step of the recognizer."""

    audio: bytes
    """float32 [chunk_samples], little-endian."""
    length: int
    """Samples before the padding; the leading zeros of the stream count."""
    last: bool


class Chunker:
    """Holds the samples of one stream that do not fill a chunk yet."""

    def __init__(self, chunk_samples: int, lead_samples: int) -> None:
        self._buffer = np.zeros(chunk_samples, dtype="<f4")
        self._filled = lead_samples

    def push(self, samples: npt.NDArray[np.float32]) -> Iterator[Chunk]:
        """Takes samples [n] and yields each chunk that they fill, as soon as it is full."""
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

    def end(self) -> Chunk:
        """The last chunk: what is left, possibly nothing."""
        self._buffer[self._filled :] = 0.0
        return Chunk(self._buffer.tobytes(), self._filled, last=True)
