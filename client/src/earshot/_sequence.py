"""A sequence of requests on one server.

A stream is one sequence, unless its server is lost: then another sequence continues it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ._chunker import Chunk
from ._errors import UnsupportedServer
from ._server_info import ServerInfo
from ._span import ClientSpan, Headers
from ._timeouts import Timeouts
from ._transcript import Token
from ._wire import RequestWriter

STREAM_HEADER = "earshot-stream"
TAG_HEADER = "x-request-id"
REPLICA_HEADER = "earshot-replica"
"""Names the server of a stream behind a proxy: the proxy sets it in the first reply, and sends
chunks with this header to the same server."""


@dataclass(frozen=True, slots=True)
class Call:
    """One chunk as a request, and the time that its reply may take."""

    sequence: TritonSequence
    chunk: Chunk
    request: Any
    deadline_s: float
    """Time for which the client waits for the reply."""
    wire_s: float
    """Time after which gRPC cancels the request. It must not do so while the server still works on
    it: an ensemble drops a cancelled sequence in its first stage, and END then no longer reaches
    the stages after it."""
    index: int
    """The number of the chunk in its stream."""
    trace: Headers
    """The trace context of the stream's span, if the server is to trace the chunk."""

    @property
    def starts(self) -> bool:
        """Return whether this is the first chunk of its sequence."""
        return self.index == self.sequence.first_chunk

    @property
    def last(self) -> bool:
        """Return whether this chunk ends the stream."""
        return self.chunk.last


class TritonSequence:
    """Writes the requests of one sequence, which begins at any chunk of its stream."""

    def __init__(
        self,
        info: ServerInfo,
        timeouts: Timeouts,
        tag: str,
        span: ClientSpan,
        *,
        server: int,
        first_chunk: int = 0,
    ) -> None:
        # 0 means "no sequence" to Triton; 63 bits, because its parameter is a signed integer.
        self.id = secrets.randbits(63) or 1
        # A proxy without support for REPLICA_HEADER can choose the server by the first header, and
        # write the second one to its log.
        self.metadata = ((STREAM_HEADER, str(self.id)), (TAG_HEADER, tag))
        self.info = info
        self.server = server
        """The number of the server, in the order of the client's URLs."""
        self.first_chunk = first_chunk
        self.idle_s = info.sequence_idle_ms / 1000
        """Time without a request after which the server drops the sequence."""
        self._timeouts = timeouts
        self._span = span
        self._writer = RequestWriter(
            self.id, info.chunk_samples, timeouts.queue_s, info.ensemble, tag, info.adapter
        )
        self.is_open = False
        """True if the sequence may have a slot on its server."""
        self.is_placed = False
        """True once the first reply has come, which may name the server behind a proxy."""

    def write(self, chunk: Chunk, index: int) -> Call:
        """Return the call for the chunk of this number in the stream."""
        self.is_open = True
        first = index == self.first_chunk
        deadline_s = self._timeouts.finish_s if chunk.last else self._timeouts.chunk_s
        if first:
            deadline_s += self._timeouts.queue_s
        request = self._writer.write(chunk, first=first)
        trace = self._span.headers(index)
        return Call(self, chunk, request, deadline_s, deadline_s + self.idle_s, index, trace)

    def stay(self, answer: Iterable[tuple[str, Any]] | None) -> None:
        """Send later requests to the server that the metadata of the first reply names, if any."""
        if not self.is_placed:
            self.is_placed = True
            self.metadata += tuple(pair for pair in answer or () if pair[0] == REPLICA_HEADER)

    def end(self) -> Any | None:
        """Return the request that frees the sequence, if it may be open on its server."""
        if not self.is_open:
            return None
        self.is_open = False
        return self._writer.write_end()

    def ended(self) -> None:
        """Note that the server has answered the last chunk."""
        self.is_open = False

    def place(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """Return the tokens with frames from the start of the stream, not of the sequence."""
        first_frame = self.first_chunk * self.info.chunk_ms // self.info.frame_ms
        if not first_frame:
            return tuple(tokens)
        return tuple(replace(token, frame=token.frame + first_frame) for token in tokens)


def require_same_chunks(info: ServerInfo, other: ServerInfo) -> None:
    """Raise UnsupportedServer unless `other` takes the chunks of a stream that began on `info`."""
    if _framing(info) != _framing(other):
        raise UnsupportedServer(
            f"the stream began with chunks of {info.chunk_ms} ms at {info.sample_rate_hz} Hz, and "
            f"{other.ensemble} at {other.url} takes {other.chunk_ms} ms at {other.sample_rate_hz} "
            "Hz: start a new stream"
        )


def _framing(info: ServerInfo) -> tuple[int, ...]:
    return info.sample_rate_hz, info.chunk_samples, info.lead_samples, info.frame_ms
