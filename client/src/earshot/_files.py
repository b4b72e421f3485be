"""Audio files, read block by block: memory stays flat for hours of audio."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

import soundfile

from ._errors import InvalidAudio
from ._pcm import Samples

_BLOCKS_PER_SECOND = 4

# soundfile carries no types.
_soundfile: Any = soundfile


class AudioFile:
    """An open audio file; make one with `open_audio`."""

    def __init__(self, path: str, file: Any) -> None:
        self._path = path
        self._file = file
        # soundfile seeks after each read of a seekable file, to where it already is. In mp3 that
        # loses the decoder's bit reservoir, and the next frames come out wrong.
        file.seekable = lambda: False
        self.sample_rate_hz: int = file.samplerate
        self.channels: int = file.channels
        self.duration_s: float = file.frames / file.samplerate

    def blocks(self) -> Iterator[Samples]:
        """float32 arrays [frames, channels], a quarter of a second each."""
        frames = max(1, self.sample_rate_hz // _BLOCKS_PER_SECOND)
        while True:
            try:
                block = self._file.read(frames, dtype="float32", always_2d=True)
            except _soundfile.SoundFileError as error:
                raise InvalidAudio(f"{self._path}: {error}") from error
            if not len(block):
                return
            yield block


@contextmanager
def open_audio(path: str | PathLike[str]) -> Generator[AudioFile, None, None]:
    """Opens whatever libsndfile reads; raises InvalidAudio if it cannot, or finds no audio."""
    name = fspath(path)
    try:
        file = _soundfile.SoundFile(name)
    except (OSError, _soundfile.SoundFileError) as error:
        raise InvalidAudio(f"cannot read {name} as audio: {error}") from error
    with file:
        audio = AudioFile(name, file)
        if not file.frames:
            raise InvalidAudio(f"{name} holds no audio")
        yield audio
