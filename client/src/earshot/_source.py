"""The audio that `transcribe` takes: a file, samples in memory, or any `AudioSource`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import BinaryIO, Protocol, TypeAlias, cast, runtime_checkable

from ._audio_file import AudioFile
from ._errors import InvalidAudio
from ._files import open_audio
from ._format import AudioFormat, Encoding
from ._pcm import Pcm
from ._transcript import Transcript

Progress: TypeAlias = Callable[[float], None]
"""Takes the seconds of audio that are done."""

_BLOCK_VALUES = 1 << 16


@runtime_checkable
class AudioSource(Protocol):
    """Audio that is read block by block, once, so that it need not fit into memory."""

    @property
    def sample_rate_hz(self) -> float:
        """The rate of the samples."""
        ...

    @property
    def channels(self) -> int:
        """The number of interleaved channels."""
        ...

    def blocks(self) -> Iterator[Pcm]:
        """Yield the audio in blocks of any length."""
        ...


Audio: TypeAlias = str | PathLike[str] | BinaryIO | Pcm | AudioSource
"""The path of a file (`-` is standard input), an open binary file, samples in memory, or a source
of blocks."""


def ignore_progress(done_s: float) -> None:
    """Do nothing: the default of `on_progress`."""


class _Memory:
    """Samples in memory as a source of blocks."""

    def __init__(self, audio: Pcm, form: AudioFormat) -> None:
        self.sample_rate_hz = form.sample_rate_hz
        self.channels = form.channels
        self._audio = audio

    def blocks(self) -> Iterator[Pcm]:
        for start in range(0, len(self._audio), _BLOCK_VALUES):
            yield self._audio[start : start + _BLOCK_VALUES]


@contextmanager
def open_source(
    audio: Audio, sample_rate_hz: float | None, channels: int, encoding: Encoding | None
) -> Generator[AudioSource, None, None]:
    """Open `audio` for reading. Samples, and files without header, need a rate.

    Raises:
        InvalidAudio: The file cannot be read, or samples come without a rate.
        ValueError: A rate was given for audio that has its own.
    """
    is_file = isinstance(audio, (str, PathLike)) or hasattr(audio, "read")
    if isinstance(audio, AudioSource) or (is_file and encoding is None):
        if sample_rate_hz is not None:
            raise ValueError(
                "a file or source has its own sample_rate_hz: leave the argument out, or pass the "
                "`encoding` of a file without header"
            )
        if isinstance(audio, AudioSource):
            yield audio
        else:
            with open_audio(cast("str | PathLike[str] | BinaryIO", audio)) as file:
                yield file
        return
    if sample_rate_hz is None:
        raise InvalidAudio("samples need their rate: pass sample_rate_hz")
    form = AudioFormat(sample_rate_hz, channels, encoding or "linear16")
    if is_file:
        with open_audio(cast("str | PathLike[str] | BinaryIO", audio), form) as file:
            yield file
    else:
        yield _Memory(cast("Pcm", audio), form)


def with_remarks(transcript: Transcript, source: AudioSource) -> Transcript:
    """Return the transcript with the damaged spans and the warnings of its source."""
    if not isinstance(source, AudioFile):
        return transcript
    failed = sorted((*transcript.failed, *source.failed), key=lambda span: span.start_s)
    return replace(
        transcript,
        failed=tuple(failed),
        warnings=(*source.warnings, *transcript.warnings),
    )
