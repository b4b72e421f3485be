"""Open audio files of all supported formats, by their path or as open files."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import SEEK_END
from os import PathLike, fsencode, fspath
from typing import Any, BinaryIO

from ._audio_file import AudioFile
from ._errors import InvalidAudio
from ._format import AudioFormat
from ._libsndfile import NotRecognized, open_libsndfile
from ._pyav import load_av, open_pyav

STDIN = "-"
"""The path of standard input."""

# Offset and signature of formats that libsndfile does not read.
_KINDS = (
    (4, b"ftyp", "MPEG-4 (m4a, mp4)"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"),
    (0, b"0&\xb2u", "WMA"),
)


@contextmanager
def open_audio(
    source: str | PathLike[str] | BinaryIO, form: AudioFormat | None = None
) -> Generator[AudioFile, None, None]:
    """Open a file by its path (`-` is standard input) or as an open binary file.

    `form` is the format of a file without a header.

    Raises:
        InvalidAudio: It cannot be read, or contains no audio.
    """
    name = display_name(source) if isinstance(source, (str, PathLike)) else "the file"
    with _open(source, name) as opened, _seekable(opened) as file:
        size = file.seek(0, SEEK_END)
        file.seek(0)
        if not size:
            raise InvalidAudio(f"{name}: is empty")
        if form is not None:
            yield _RawFile(name, file, size, form)
            return
        with _decoded(file, name) as audio:
            yield audio


@contextmanager
def _decoded(file: BinaryIO, name: str) -> Generator[AudioFile, None, None]:
    try:
        with open_libsndfile(file, name) as audio:
            yield audio
            return
    except NotRecognized as error:
        reason = error.reason
    av = load_av()
    if av is None:
        raise InvalidAudio(_unreadable(file, name, reason, has_av=False))
    with open_pyav(av, file, name) as audio:
        if audio is None:
            raise InvalidAudio(_unreadable(file, name, reason, has_av=True))
        yield audio


class _RawFile(AudioFile):
    """A file of samples without a header."""

    def __init__(self, name: str, file: BinaryIO, size: int, form: AudioFormat) -> None:
        frame_bytes = form.channels * form.bytes_per_sample
        rate_hz = form.sample_rate_hz
        super().__init__(name, rate_hz, form.channels, size // frame_bytes / rate_hz)
        self._file = file
        self._block_bytes = self.block_frames * frame_bytes

    def blocks(self) -> Iterator[bytes]:
        while block := self._file.read(self._block_bytes):
            yield block


@contextmanager
def _open(source: str | PathLike[str] | BinaryIO, name: str) -> Generator[BinaryIO, None, None]:
    if not isinstance(source, (str, PathLike)):
        nothing: Any = source.read(0)
        if nothing != b"":
            raise InvalidAudio(
                "expected a file that is open in binary mode ('rb'), got one in text mode"
            )
        yield source
    elif fspath(source) == STDIN:
        yield sys.stdin.buffer
    else:
        with _open_path(source, name) as file:
            yield file


def _open_path(path: str | PathLike[str], name: str) -> BinaryIO:
    try:
        return open(path, "rb", buffering=0)
    except FileNotFoundError as error:
        raise InvalidAudio(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise InvalidAudio(f"{name}: is a folder") from error
    except OSError as error:
        raise InvalidAudio(f"{name}: {error.strerror}") from error


@contextmanager
def _seekable(file: BinaryIO) -> Generator[BinaryIO, None, None]:
    """Yield a file that decoders can seek in: a pipe is copied to a temporary file first."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        yield copy


def _unreadable(file: BinaryIO, name: str, reason: str, *, has_av: bool) -> str:
    """Return the message for a file of an unknown format, with the known formats and advice."""
    file.seek(0)
    head = file.read(12)
    kind = next((kind for place, mark, kind in _KINDS if head.startswith(mark, place)), None)
    found = f"it looks like {kind}" if kind else reason.rstrip(".")
    more = "" if has_av else ", and with the extra `av` (pip install './client[av]') m4a, webm, ..."
    advice = (
        f"Or convert it: ffmpeg -i {name} audio.wav"
        if kind
        else "If it has no header, say what it contains: `encoding` and `sample_rate_hz` "
        "(--encoding mulaw --sample-rate-hz 8000)"
    )
    return f"{name}: cannot be read as audio: {found}. Read are wav, flac, ogg, mp3{more}. {advice}"


def display_name(path: str | PathLike[str]) -> str:
    """Return the path as printable text: a file name need not be valid UTF-8."""
    return fsencode(path).decode(errors="replace")
