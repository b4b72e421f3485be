"""Find where a damaged FLAC file can be read again (https://www.rfc-editor.org/rfc/rfc9639)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import SEEK_END
from itertools import chain, pairwise
from typing import BinaryIO

_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_LONGEST_HEADER = 16
_WINDOW_BYTES = 1 << 20


@dataclass(frozen=True)
class Frame:
    """The position of a frame in its file."""

    start: int
    end: int
    first_sample: int


def metadata(file: BinaryIO) -> bytes:
    """Return the beginning of a FLAC file, up to its first frame; b"" if it is not FLAC."""
    file.seek(0)
    head = file.read(4)
    if head != b"fLaC":
        return b""
    last = False
    while not last:
        block = file.read(4)
        if len(block) < 4:
            return b""
        last = bool(block[0] & 0x80)
        head += block + file.read(int.from_bytes(block[1:], "big"))
    return head


def frames(file: BinaryIO, start: int) -> Iterator[Frame]:
    """Yield each frame from byte `start` on, as found by the checksum of its header."""
    block_samples = int.from_bytes(metadata(file)[8:10], "big")
    size = file.seek(0, SEEK_END)
    headers = _headers(file, start, block_samples)
    for (position, first), (end, _) in pairwise(chain(headers, [(size, 0)])):
        yield Frame(position, end, first)


def is_intact(file: BinaryIO, frame: Frame) -> bool:
    """Return whether the checksum at the end of a frame matches its content."""
    file.seek(frame.start)
    data = file.read(frame.end - frame.start)
    crc = 0
    for byte in data[:-2]:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc == int.from_bytes(data[-2:], "big")


def _headers(file: BinaryIO, start: int, block_samples: int) -> Iterator[tuple[int, int]]:
    """Yield the position in bytes and the first sample of each frame."""
    while True:
        file.seek(start)
        window = file.read(_WINDOW_BYTES)
        for match in _SYNC.finditer(window[:-_LONGEST_HEADER]):
            header = window[match.start() : match.start() + _LONGEST_HEADER]
            first = _first_sample(header, block_samples)
            if first is not None:
                yield start + match.start(), first
        if len(window) < _WINDOW_BYTES:
            return
        start += _WINDOW_BYTES - _LONGEST_HEADER


def _first_sample(header: bytes, block_samples: int) -> int | None:
    """Return the first sample of the frame with this header; None if the header is invalid."""
    number_bytes = max(1, 8 - (header[4] ^ 0xFF).bit_length())
    if header[4] & 0xC0 == 0x80 or number_bytes > 7:
        return None
    end = 4 + number_bytes + {6: 1, 7: 2}.get(header[2] >> 4, 0)
    end += {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if end >= len(header) or _crc8(header[:end]) != header[end]:
        return None
    number = header[4] & (0x7F if number_bytes == 1 else 0xFF >> number_bytes + 1)
    for byte in header[5 : 4 + number_bytes]:
        number = number << 6 | byte & 0x3F
    # Frames of variable length are numbered by samples, others by frames.
    return number if header[1] & 1 else number * block_samples


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc_table(bits: int, polynomial: int) -> list[int]:
    """Return the remainder of each byte value, for a checksum of this many bits."""
    table: list[int] = []
    for byte in range(256):
        crc = byte << bits - 8
        for _ in range(8):
            crc = crc << 1 ^ (polynomial if crc >> bits - 1 else 0)
            crc &= (1 << bits) - 1
        table.append(crc)
    return table


_CRC8 = _crc_table(8, 0x07)
_CRC16 = _crc_table(16, 0x8005)
