"""Read the formats of FFmpeg: m4a, mp4, webm, aac, amr, wma and more; this needs the extra `av`."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ._audio_file import DAMAGED, TRUNCATED, AudioFile
from ._errors import InvalidAudio
from ._pcm import Samples

# Of its hundreds of formats, FFmpeg would mistake raw audio for one; so only these are tried.
_FORMATS = "mov,matroska,aac,amr,asf,avi,flv,mpegts,mpeg,wv,ape,tta,ac3,caf"
# Encoders round the length up to whole frames, and containers state the length of their longest
# stream.
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
        self._resampler = av.AudioResampler("flt", container.streams.audio[0].layout)

    def blocks(self) -> Iterator[Samples]:
        read = 0
        error: Exception | None = None
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._av.FFmpegError as failure:
                error = failure
                continue
            for frame in frames:
                if error is not None and frame.time is not None:
                    # The part that could not be decoded lies before this frame.
                    first = round(frame.time * self.sample_rate_hz)
                    yield from self.skip(read, max(read, first), DAMAGED)
                    read, error = max(read, first), None
                for converted in self._resampler.resample(frame):
                    read += converted.samples
                    yield converted.to_ndarray().reshape(-1, self.channels)
        stated = round((self.duration_s or 0) * self.sample_rate_hz)
        if error is not None and not read:
            raise InvalidAudio(f"{self.name}: {getattr(error, 'strerror', error)}") from error
        if error is not None:
            yield from self.skip(read, max(read, stated), DAMAGED)
        elif read < stated - _TOLERANCE_S * self.sample_rate_hz:
            self.warnings.append(TRUNCATED)

    def _packets(self) -> Iterator[Any]:
        """Yield packets up to the end, or to the point at which the container itself is damaged."""
        with contextlib.suppress(self._av.FFmpegError):
            yield from self._container.demux(audio=0)
