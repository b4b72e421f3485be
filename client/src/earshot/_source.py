"""Where the audio of `recognize` comes from: a file, or samples in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Protocol, TypeAlias

from ._errors import InvalidAudio
from ._files import open_audio
from ._pcm import Pcm

Progress: TypeAlias = Callable[[float], None]
"""Is told how many seconds of the audio are done with."""

_BLOCK_VALUES = 1 << 16


class AudioSource(Protocol):
    """Audio that can be read block by block, once."""

    @property
    def sample_rate_hz(self) -> float: ...

    @property
    def channels(self) -> int: ...

    def blocks(self) -> Iterator[Pcm]:
        """Pieces of any length."""
        ...


class _Memory:
    """Samples that are there already."""

    def __init__(self, audio: Pcm, sample_rate_hz: float, channels: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self._audio = audio

    def blocks(self) -> Iterator[Pcm]:
        for start in range(0, len(self._audio), _BLOCK_VALUES):
            yield self._audio[start : start + _BLOCK_VALUES]


@contextmanager
def open_source(
    audio: str | PathLike[str] | Pcm, sample_rate_hz: float | None, channels: int
) -> Generator[AudioSource, None, None]:
    """A file says its rate and channels itself; samples need them. Raises InvalidAudio."""
    if isinstance(audio, (str, PathLike)):
        if sample_rate_hz is not None:
            raise ValueError("a file says its own sample_rate_hz: leave it out")
        with open_audio(audio) as file:
            yield file
    elif sample_rate_hz is None:
        raise InvalidAudio("samples need their sample_rate_hz")
    else:
        yield _Memory(audio, sample_rate_hz, channels)
