"""Read audio files block by block, so that memory stays flat for hours of audio."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import BytesIO, FileIO
from os import PathLike, fsencode
from typing import Any, BinaryIO

import soundfile

from ._errors import InvalidAudio
from ._pcm import Samples

_BLOCKS_PER_SECOND = 4
# libsndfile's log for a WAV file that is shorter than its header states. Programs that write to a
# pipe state the largest length that the field holds, or nearly; that is no sign of loss.
_TRUNCATED = re.compile(r"^data : (\d+) \(should be \d+\)", re.MULTILINE)
_LENGTH_UNKNOWN = 0x7FFF_0000

# soundfile carries no types.
_soundfile: Any = soundfile


class AudioFile:
    """An open audio file; make one with `open_audio`."""

    def __init__(self, name: str, file: Any) -> None:
        self._name = name
        self._file = file
        # soundfile seeks after each read of a seekable file, to where it already is. For mp3 this
        # loses the decoder's bit reservoir, and the next frames are decoded wrongly.
        file.seekable = lambda: False
        self.sample_rate_hz: int = file.samplerate
        self.channels: int = file.channels
        self.duration_s: float = file.frames / file.samplerate
        stated = _TRUNCATED.search(file.extra_info)
        self.truncated = stated is not None and int(stated[1]) < _LENGTH_UNKNOWN
        """True if the header of a WAV file states more audio than the file has."""

    def blocks(self) -> Iterator[Samples]:
        """Yield float32 arrays [frames, channels] of a quarter of a second each."""
        frames = max(1, self.sample_rate_hz // _BLOCKS_PER_SECOND)
        while True:
            try:
                block = self._file.read(frames, dtype="float32", always_2d=True)
            except _soundfile.SoundFileError as error:
                raise InvalidAudio(f"{self._name}: {_reason(error)}") from error
            if not len(block):
                return
            yield block


@contextmanager
def open_audio(source: str | PathLike[str] | BinaryIO) -> Generator[AudioFile, None, None]:
    """Open a file that libsndfile reads, by its path or as an open binary file.

    Raises:
        InvalidAudio: It cannot be read, or contains no audio.
    """
    if isinstance(source, (str, PathLike)):
        name = display_name(source)
        # A descriptor, because soundfile rejects names that are not valid UTF-8.
        with _open(source, name) as raw, _read(raw.fileno(), name) as audio:
            yield audio
    else:
        with _read(_seekable(source), "the file") as audio:
            yield audio


@contextmanager
def _read(raw: int | BinaryIO, name: str) -> Generator[AudioFile, None, None]:
    with _decode(raw, name) as file:
        if not file.frames:
            raise InvalidAudio(f"{name}: contains no audio")
        yield AudioFile(name, file)


def _open(path: str | PathLike[str], name: str) -> FileIO:
    try:
        return open(path, "rb", buffering=0)
    except FileNotFoundError as error:
        raise InvalidAudio(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise InvalidAudio(f"{name}: is a folder") from error
    except OSError as error:
        raise InvalidAudio(f"{name}: {error.strerror}") from error


def _seekable(file: BinaryIO) -> BinaryIO:
    """Return a file that libsndfile can seek in: a pipe is read to its end first."""
    nothing: Any = file.read(0)
    if nothing != b"":
        raise InvalidAudio("expected a file that is open in binary mode ('rb'), got one of text")
    return file if file.seekable() else BytesIO(file.read())


def _decode(raw: int | BinaryIO, name: str) -> Any:
    try:
        return _soundfile.SoundFile(raw, closefd=False)
    except _soundfile.SoundFileError as error:
        raise InvalidAudio(f"{name}: cannot be read as audio: {_reason(error)}") from error


def display_name(path: str | PathLike[str]) -> str:
    """Return the path as printable text: a file name need not be valid UTF-8."""
    return fsencode(path).decode(errors="replace")


def _reason(error: Any) -> str:
    return getattr(error, "error_string", str(error))
