"""Read the formats of libsndfile: wav, flac, ogg, mp3, aiff and more."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soundfile

from . import _flac, _mp3, _ogg, _wav
from ._audio_file import DAMAGED, TRUNCATED, AudioFile
from ._errors import InvalidAudio
from ._joined import joined
from ._pcm import Samples

# libsndfile's log for a file that is shorter than its header states (WAV, AIFF), and for an ogg
# file without its last page.
_SHORT_DATA = re.compile(r"^ ?(?:data|SSND) : (\d+) \(should be \d+\)", re.MULTILINE)
_NO_LAST_PAGE = re.compile(r"^Ogg ?: (Last page lacks|File ended|Junk after)", re.MULTILINE)

# soundfile has no types.
_soundfile: Any = soundfile

_Blocks: TypeAlias = Generator[Samples, None, str | None]
"""Blocks; returns the error that ended them, or None at the end of the file."""


class NotRecognized(Exception):
    """libsndfile does not know the format of the file; `reason` is its message."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


@contextmanager
def open_libsndfile(file: BinaryIO, name: str) -> Generator[AudioFile, None, None]:
    """Open a seekable file. Raise NotRecognized, or InvalidAudio if it contains no audio."""
    scan = _mp3.scan(file)
    lacks_length = scan.runs and not scan.states_length
    mended = _mp3.with_length(file, scan.runs[0]) if lacks_length else _wav.mended(file)
    with _decode(mended) as sound:
        if not sound.frames:
            raise InvalidAudio(f"{name}: contains no audio")
        yield _SoundFile(name, file, sound, scan)


class _SoundFile(AudioFile):
    """A file that libsndfile reads."""

    def __init__(self, name: str, file: BinaryIO, sound: Any, scan: _mp3.Scan) -> None:
        rate_hz = sound.samplerate
        super().__init__(name, rate_hz, sound.channels, sound.frames / rate_hz)
        self._file = file
        self._sound = sound
        self._scan = scan
        self._frames = 0
        short = _SHORT_DATA.search(sound.extra_info)
        if (
            scan.breaks_off
            or (short and int(short[1]) < _wav.LENGTH_UNKNOWN)
            or _NO_LAST_PAGE.search(sound.extra_info)
        ):
            self.warnings.append(TRUNCATED)

    def blocks(self) -> Iterator[Samples]:
        if self._sound.format == "OGG":
            position = self._file.tell()
            gap_s = _ogg.gap_s(self._file, self._sound.samplerate)
            self._file.seek(position)  # libsndfile continues from here
            if gap_s is not None:
                yield from self._around_gap(round(gap_s * self._sound.samplerate))
                return
        if len(self._scan.runs) > 1:
            yield from self._runs_of_mp3()
            return
        error = yield from self._counted(_blocks(self._sound, self.block_frames))
        if error is None:
            if self._frames < self._sound.frames and not self.warnings:
                self.warnings.append(TRUNCATED)
        elif self._sound.format == "FLAC":
            yield from self._after_damage()
        elif self._frames:
            yield from self.skip(self._frames, max(self._frames, self._sound.frames), error)
        else:
            raise InvalidAudio(f"{self.name}: {error}")

    def _after_damage(self) -> Iterator[Samples]:
        """Yield the rest of a FLAC file, with silence in place of damaged frames."""
        head = _flac.metadata(self._file)
        for frame in _flac.frames(self._file, len(head)):
            if frame.first_sample < self._frames or not _flac.is_intact(self._file, frame):
                continue
            yield from self.skip(self._frames, frame.first_sample, DAMAGED)
            self._frames = frame.first_sample
            with _decode(joined(head, self._file, frame.start)) as sound:
                if (yield from self._counted(_blocks(sound, self.block_frames))) is None:
                    return
        self.warnings.append(TRUNCATED)

    def _around_gap(self, first: int) -> Iterator[Samples]:
        """Yield an ogg file, with silence at `first` in place of the samples that were skipped."""
        readable = sum(map(len, _blocks(self._sound, self.block_frames)))
        with _decode(joined(b"", self._file, 0)) as sound:
            for block in _blocks(sound, self.block_frames):
                cut = first - self._frames
                self._frames += len(block)
                if not 0 <= cut < len(block):
                    yield block
                    continue
                yield block[:cut]
                yield from self.skip(first, first + self._sound.frames - readable, DAMAGED)
                yield block[cut:]

    def _runs_of_mp3(self) -> Iterator[Samples]:
        """Yield the intact parts of a damaged mp3 file, with silence in place of the damage."""
        before: _mp3.Run | None = None
        frame_samples = _mp3.samples_per_frame(self._file, self._scan.runs[0])
        for run in self._scan.runs:
            if before is not None:
                lost = self._scan.frames_between(before, run) * frame_samples
                yield from self.skip(self._frames, self._frames + lost, DAMAGED)
                self._frames += lost
            with _decode(_mp3.with_length(self._file, run)) as sound:
                yield from self._counted(_blocks(sound, self.block_frames))
            before = run

    def _counted(self, blocks: _Blocks) -> _Blocks:
        while True:
            try:
                block = next(blocks)
            except StopIteration as end:
                return end.value
            self._frames += len(block)
            yield block


def _blocks(sound: Any, frames: int) -> _Blocks:
    """Yield blocks up to the end, or up to an error, which is returned."""
    # soundfile seeks after each read of a seekable file, to where it already is. For mp3 this
    # loses the decoder's bit reservoir, and the next frames are decoded wrongly.
    sound.seekable = lambda: False
    while True:
        # Samples that stay NaN were not read: after an error, soundfile does not report their
        # number.
        block = np.full((frames, sound.channels), np.nan, np.float32)
        try:
            block = sound.read(out=block)
        except _soundfile.SoundFileError as error:
            unread = np.isnan(block[:, 0])
            read = int(unread.argmax()) if unread.any() else len(block)
            if read:
                yield block[:read]
            return _reason(error)
        if not len(block):
            return None
        yield block


def _decode(file: Any) -> Any:
    # libsndfile reads a descriptor by itself; it also takes file names, but only in UTF-8.
    opened = file.fileno() if isinstance(file, FileIO) else file
    try:
        return _soundfile.SoundFile(opened, closefd=False)
    except _soundfile.SoundFileError as error:
        raise NotRecognized(_reason(error)) from error


def _reason(error: Any) -> str:
    return getattr(error, "error_string", str(error))
