"""Read the formats of FFmpeg: m4a, mp4, webm, aac, amr, wma and more; this needs the extra `av`."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ._audio_file import TRUNCATED, AudioFile
from ._errors import InvalidAudio
from ._pcm import Samples

# FFmpeg knows hundreds of formats, and takes raw audio for one of them.
_FORMATS = "mov,matroska,aac,amr,asf,avi,flv,mpegts,mpeg,wv,ape,tta,ac3,caf"
# Encoders round the length up to whole frames, and containers state that of their longest stream.
_TOLERANCE_S = 0.5


def load_av() -> Any | None:
    """Return PyAV if it is installed."""
    try:
        return importlib.import_module("av")
    except ImportError:
        return None


@contextmanager
def open_pyav(av: Any, file: BinaryIO, name: str) -> Generator[AudioFile | None, None, None]:
    """Open a seekable file; yield None if FFmpeg does not know its format."""
    file.seek(0)
    try:
        container = av.open(file, options={"format_whitelist": _FORMATS})
    except av.FFmpegError:
        yield None
        return
    with container:
        if not container.streams.audio:
            raise InvalidAudio(f"{name}: contains no audio")
        yield _AvFile(av, name, container)


class _AvFile(AudioFile):
    """A file that FFmpeg reads."""

    def __init__(self, av: Any, name: str, container: Any) -> None:
        codec = container.streams.audio[0].codec_context
        duration = container.duration
        super().__init__(
            name,
            codec.sample_rate,
            codec.channels,
            duration / av.time_base if duration else None,
        )
        self._av = av
        self._container = container

    def blocks(self) -> Iterator[Samples]:
        resampler = self._av.AudioResampler("flt", self._container.streams.audio[0].layout)
        read = 0
        try:
            for frame in self._container.decode(audio=0):
                for converted in resampler.resample(frame):
                    read += converted.samples
                    yield converted.to_ndarray().reshape(-1, self.channels)
        except self._av.FFmpegError as error:
            if not read:
                raise InvalidAudio(f"{self.name}: {error.strerror}") from error
            self.warnings.append(f"the file is damaged after {read / self.sample_rate_hz:.1f} s")
            return
        if self.duration_s and read / self.sample_rate_hz < self.duration_s - _TOLERANCE_S:
            self.warnings.append(TRUNCATED)
