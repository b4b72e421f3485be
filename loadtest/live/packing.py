"""Messages between a worker and its process of live streams, as msgpack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgpack


def pack(message: dict[str, Any]) -> bytes:
    """Return `message` as bytes."""
    return cast(bytes, msgpack.packb(message))


class Received:
    """Finds messages in the bytes that have been received."""

    def __init__(self) -> None:
        self._unpacker: Any = msgpack.Unpacker(max_buffer_size=0)  # pyright: ignore[reportCallIssue]

    def add(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Add what came; yield the messages that are now complete."""
        self._unpacker.feed(data)
        yield from self._unpacker
