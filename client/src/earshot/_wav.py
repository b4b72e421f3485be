"""Mend headers of WAV files that libsndfile cannot read.

A program that writes to a pipe cannot know the length: it states 0, or the most that the field
holds, or 2,000,000,000. Some programs forget the byte that pads a chunk of odd length.
"""

from __future__ import annotations

import io
import re
import struct
from typing import BinaryIO

from ._joined import joined

# Programs that do not know the length state one of at least this.
LENGTH_UNKNOWN = 1_999_999_000
_HEADER_BYTES = 1 << 20
"""The audio begins before this position: only text and tables come before it."""
_CHUNK_NAME = re.compile(rb"[ -~]{4}")


def mended(file: BinaryIO) -> BinaryIO:
    """Return a file with a header that libsndfile can read; `file` itself if it has one already."""
    file.seek(0)
    head = file.read(_HEADER_BYTES)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    found = _find_chunks(head)
    if found is None:
        return file
    form, start, stated, padded = found
    unknown = stated >= LENGTH_UNKNOWN or (stated == 0 and start < size)
    if padded and not unknown:
        return file
    length = min(size - start, 0xFFFF_0000) if unknown else stated
    header = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data"
    header = b"RIFF" + struct.pack("<I", len(header) + 4 + length) + header
    return joined(header + struct.pack("<I", length), file, start)


def _find_chunks(head: bytes) -> tuple[bytes, int, int, bool] | None:
    """Return the format, the start and stated length of the audio, and whether chunks are padded.

    Return None if this is no WAV file.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    form, position, padded = b"", 12, True
    while position + 8 <= len(head):
        name, length = head[position : position + 4], _length(head, position + 4)
        position += 8
        if name == b"data":
            return (form, position, length, padded) if form else None
        if name == b"fmt ":
            form = head[position : position + length]
        position += length
        if length % 2 and not _is_unpadded(head, position):
            position += 1
        elif length % 2:
            padded = False
    return None


def _is_unpadded(head: bytes, end: int) -> bool:
    """Return whether the next chunk begins right at the `end` of one with an odd length."""
    at_end, after = head[end : end + 4], head[end + 1 : end + 5]
    return bool(_CHUNK_NAME.fullmatch(at_end)) and not _CHUNK_NAME.fullmatch(after)


def _length(head: bytes, position: int) -> int:
    return struct.unpack_from("<I", head, position)[0]
