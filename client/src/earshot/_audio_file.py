"""An open audio file, independent of the library that decodes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from ._pcm import Pcm, Samples
from ._transcript import FailedSpan

BLOCKS_PER_SECOND = 4
TRUNCATED = "the file is truncated: its header states more audio"
DAMAGED = "the file is damaged there"


class AudioFile(ABC):
    """An open audio file; make one with `open_audio`.

    It is read block by block, once, so that memory stays flat for hours of audio.
    """

    def __init__(
        self, name: str, sample_rate_hz: float, channels: int, duration_s: float | None
    ) -> None:
        self.name = name
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.duration_s = duration_s
        """The length according to the header; None if the header states none."""
        self.warnings: list[str] = []
        """Problems found in the file; complete when all blocks have been read."""
        self.failed: list[FailedSpan] = []
        """The spans that cannot be read; complete when all blocks have been read."""

    @abstractmethod
    def blocks(self) -> Iterator[Pcm]:
        """Yield the audio in blocks of a quarter of a second; a damaged span is silent."""

    @property
    def block_frames(self) -> int:
        """Return the number of samples per channel in a block."""
        return max(1, int(self.sample_rate_hz) // BLOCKS_PER_SECOND)

    def skip(self, start: int, stop: int, reason: str) -> Iterator[Samples]:
        """Yield silence for the damaged samples from `start` to `stop`, and note them as failed."""
        self.failed.append(
            FailedSpan(start / self.sample_rate_hz, stop / self.sample_rate_hz, reason)
        )
        for first in range(start, stop, self.block_frames):
            frames = min(self.block_frames, stop - first)
            yield np.zeros((frames, self.channels), np.float32)
