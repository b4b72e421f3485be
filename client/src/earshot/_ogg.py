"""Find damage in an ogg file by the checksums of its pages (https://www.rfc-editor.org/rfc/rfc3533).

The decoder skips damaged pages without an error, so that all later times are too early.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

_HEADER_BYTES = 27
_OPUS_RATE_HZ = 48000
_SEARCHED_BYTES = 1 << 20
"""The next page after the damage begins within this distance; a page has at most 64 KB."""
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def gap_s(file: BinaryIO, sample_rate_hz: int) -> float | None:
    """Return the position in seconds at which pages are damaged, if others follow; else None."""
    first = _read_page(file, 0)
    granule, position, page = 0, 0, first
    while page and _is_intact(page):
        granule = max(granule, int.from_bytes(page[6:14], "little", signed=True))
        position += len(page)
        page = _read_page(file, position)
    file.seek(position + 4)
    if b"OggS" not in file.read(_SEARCHED_BYTES):
        return None
    opus = first.find(b"OpusHead")
    if opus < 0:
        return granule / sample_rate_hz
    skipped = int.from_bytes(first[opus + 10 : opus + 12], "little")
    return max(0, granule - skipped) / _OPUS_RATE_HZ


def _read_page(file: BinaryIO, position: int) -> bytes:
    """Return the page at this position; b"" if none begins there."""
    file.seek(position)
    header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or header[:4] != b"OggS":
        return b""
    sizes = file.read(header[26])
    return header + sizes + file.read(sum(sizes))


def _is_intact(page: bytes) -> bool:
    """Return whether the checksum of a page matches its content.

    It is the CRC-32 of zlib with the bits in reverse order, and without its inversions.
    """
    content = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(content.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2) == int.from_bytes(page[22:26], "little")
