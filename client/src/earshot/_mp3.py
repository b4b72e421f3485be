"""Find the frames of mp3 files, and add a header that states their number if there is none.

Without that header, libsndfile guesses the length from the first frame, and reads no further. After
damage, its decoder skips some audio, so that all later times are too early.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import SEEK_END
from typing import BinaryIO

from ._joined import joined

_MPEG1, _MPEG2 = 3, 2
# Bit rates of layer III in kbit/s, for MPEG 1 (True) and later versions, by the code in the header.
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS_CODE = 8  # a frame of this rate has room for the header
_RATES_HZ = (44100, 48000, 32000)
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_WINDOW_BYTES = 1 << 16
_LOOKAHEAD_BYTES = 1 << 13
FEWEST_FRAMES = 4
"""This many frames in a row are not a coincidence."""


@dataclass(frozen=True)
class Run:
    """Frames that follow each other without damage."""

    start: int
    end: int
    frames: int


@dataclass(frozen=True)
class Scan:
    """The frames of an mp3 file."""

    runs: tuple[Run, ...]
    """Several if the file is damaged between them; none if it is not an mp3 file."""
    states_length: bool
    """True if the first frame is a header that states the length."""
    breaks_off: bool
    """True if the file ends inside a frame."""

    def frames_between(self, run: Run, following: Run) -> int:
        """Estimate the number of frames lost between two runs, from the mean size of the others."""
        frame_bytes = (run.end - run.start) / run.frames
        return round((following.start - run.end) / frame_bytes)


def scan(file: BinaryIO) -> Scan:
    """Find the frames of a file, which may be of another format."""
    position = _tag_bytes(file)
    file.seek(position)
    head = file.read(256)
    tagged = any(tag in head for tag in (b"Xing", b"Info", b"VBRI"))
    size = file.seek(0, SEEK_END)
    runs: list[Run] = []
    while frame_bytes(head[:4]) is not None:
        run, end = _follow(file, position, size)
        if run.frames < FEWEST_FRAMES:  # a few bytes of any data may look like a frame
            break
        runs.append(run)
        if end > size:
            return Scan(tuple(runs), tagged, True)
        found = _next_run(file, run.end, size)
        if found is None:
            break
        position = found
    return Scan(tuple(runs), tagged, False)


def with_length(file: BinaryIO, run: Run) -> BinaryIO:
    """Return a file that begins at a run, with a header that states its length."""
    file.seek(run.start)
    return joined(_length_frame(file.read(4), run.frames), file, run.start)


def samples_per_frame(file: BinaryIO, run: Run) -> int:
    """Return the number of samples per channel in a frame of a run."""
    file.seek(run.start)
    return 1152 if file.read(2)[1] >> 3 & 3 == _MPEG1 else 576


def frame_bytes(header: bytes) -> int | None:
    """Return the length of the frame with this header [4]; None if it is not of layer III."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, kbits_code, rate_code = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or kbits_code in (0, 15) or rate_code == 3:
        return None
    first = version == _MPEG1
    rate_hz = _RATES_HZ[rate_code] >> (0 if first else 1 if version == _MPEG2 else 2)
    padding = header[2] >> 1 & 1
    return (144 if first else 72) * 1000 * _KBITS[first][kbits_code] // rate_hz + padding


def _follow(file: BinaryIO, start: int, size: int) -> tuple[Run, int]:
    """Return the run of whole frames from a position on, and the end of its last frame."""
    frames, position, end = 0, start, start
    while position + 4 <= size:
        file.seek(position)
        length = frame_bytes(file.read(4))
        if length is None:
            break
        end = position + length
        if end > size:
            break
        frames, position = frames + 1, end
    return Run(start, position, frames), end


def _next_run(file: BinaryIO, position: int, size: int) -> int | None:
    """Return the position of the next run, or None if there is none."""
    while position < size:
        file.seek(position)
        window = file.read(_WINDOW_BYTES)
        for match in _SYNC.finditer(window):
            start = position + match.start()
            if _follow(file, start, min(size, start + _LOOKAHEAD_BYTES))[0].frames >= FEWEST_FRAMES:
                return start
        position += max(1, len(window) - 1)
    return None


def _length_frame(header: bytes, frames: int) -> bytes:
    """Return a silent frame with a Xing header, which states the number of `frames` after it."""
    first, mono = header[1] >> 3 & 3 == _MPEG1, header[3] >> 6 == 3
    # Without checksum and padding.
    head = bytes((0xFF, header[1] | 1, _KBITS_CODE << 4 | header[2] & 0x0C, header[3]))
    side = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[first, mono]
    tag = b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return (head + bytes(side) + tag).ljust(frame_bytes(head) or 0, b"\0")


def _tag_bytes(file: BinaryIO) -> int:
    """Return the length of the ID3v2 tag before the audio."""
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << 21 - 7 * index for index, byte in enumerate(head[6:]))
