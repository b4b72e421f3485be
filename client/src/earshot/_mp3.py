"""Give mp3 files the header that states their length, and notice those that break off.

Without it, libsndfile guesses the length from the first frame, and reads no more than that.
"""

from __future__ import annotations

from io import SEEK_END
from typing import BinaryIO

from ._joined import joined

_MPEG1, _MPEG2 = 3, 2
# Of layer III, in kbit/s, by MPEG 1 or later ones, and by the code in the header.
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS_CODE = 8  # a frame of this rate has room for the header
_RATES_HZ = (44100, 48000, 32000)


def mended(file: BinaryIO) -> tuple[BinaryIO, bool]:
    """Return a file that states its length, and whether `file` ends inside a frame.

    Of a file that states its length, or is no mp3, it says no more than that.
    """
    start = _tag_bytes(file)
    file.seek(start)
    head = file.read(256)
    if frame_bytes(head[:4]) is None or any(tag in head for tag in (b"Xing", b"Info", b"VBRI")):
        file.seek(0)
        return file, False
    frames, breaks_off = _count(file, start)
    if frames < 2:  # any data may begin like one frame
        file.seek(0)
        return file, False
    return joined(_length_frame(head, frames), file, start), breaks_off


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


def _count(file: BinaryIO, position: int) -> tuple[int, bool]:
    """Return the number of whole frames, and whether the file ends inside another one."""
    frames = 0
    size = file.seek(0, SEEK_END)
    while position < size:
        file.seek(position)
        length = frame_bytes(file.read(4))
        if length is None:
            break
        position += length
        frames += position <= size
    return frames, position > size


def _length_frame(header: bytes, frames: int) -> bytes:
    """Return a silent frame that states the number of the `frames` after it (Xing)."""
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
