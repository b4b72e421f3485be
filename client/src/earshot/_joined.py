"""Replace the beginning of a file."""

from __future__ import annotations

import io
from typing import Any, BinaryIO


def joined(head: bytes, file: BinaryIO, start: int) -> BinaryIO:
    """Return a file of `head` and the content of `file` from position `start` on."""
    return io.BufferedReader(_Joined(head, file, start))


class _Joined(io.RawIOBase):
    """Bytes in memory, followed by a file from a position on."""

    def __init__(self, head: bytes, file: BinaryIO, start: int) -> None:
        self._head = head
        self._file = file
        self._skipped = start - len(head)
        self._size = file.seek(0, io.SEEK_END) - self._skipped
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position < len(self._head):
            data = self._head[self._position : self._position + len(buffer)]
        else:
            self._file.seek(self._position + self._skipped)
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
