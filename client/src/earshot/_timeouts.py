"""The deadlines of a client, one per phase."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Timeouts:
    """Deadlines in seconds, all positive; `resume_s` may be 0.

    connect_s   `connect`: for the answers that describe the server, else ConnectionFailed
    queue_s     first chunk: for a free slot, else ServerBusy
    chunk_s     each chunk: for its text, else ChunkTimeout; the first chunk has queue_s + chunk_s
    finish_s    last chunk: for the rest of the text, else ChunkTimeout
    piece_s     offline recognizer: for each attempt at a piece of a file
    close_s     closing the client: for the server to receive the end of open streams; it drops the
                other ones itself when they have been idle for long enough
    keepalive_s a connection without a reply for this long is pinged, and given up if it is still
                silent after the same time again. math.inf for servers that forbid pings:
                Triton does unless it is started by `python -m server`
    outage_s    whole files: for a server that cannot be reached, or is being restarted, to return
    resume_s    live streams: for a server that was lost, or another one, to continue the stream,
                else StreamLost; 0 gives up at once
    """

    connect_s: float = 5.0
    queue_s: float = 5.0
    chunk_s: float = 10.0
    finish_s: float = 10.0
    piece_s: float = 60.0
    close_s: float = 1.0
    keepalive_s: float = 4.0
    outage_s: float = 120.0
    resume_s: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 or (field.name == "resume_s" and value == 0)):
                raise ValueError(f"expected a positive {field.name}, got {value}")
