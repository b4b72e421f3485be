"""How long to wait, one figure per phase."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Timeouts:
    """Deadlines in seconds, all positive.

    connect_s   `connect`: until the server has described itself, else ConnectionFailed
    queue_s     first chunk: until the server has a free place for the stream, else ServerBusy
    chunk_s     each chunk: until its text has come, else ChunkTimeout; the first chunk has
                queue_s + chunk_s
    finish_s    last chunk: the same for the rest of the text
    piece_s     whole files, offline: each attempt at a piece of a file
    close_s     leaving the client: until the server has heard of the end of open streams; then it
                is left to drop them when they have been idle for long enough
    """

    connect_s: float = 5.0
    queue_s: float = 5.0
    chunk_s: float = 10.0
    finish_s: float = 10.0
    piece_s: float = 60.0
    close_s: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name} must be positive, not {value}")
