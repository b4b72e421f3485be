"""Send live streams over the load generator's own transport, and read the answers.

Requests are those of the client, and its code reads the answers and explains the errors. The
difference is in between: a chunk of a script is serialized once, for all streams that send it.
Protobuf messages are merged by concatenating their bytes, so a request consists of the few fields
of its stream, followed by those bytes.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import earshot
import gevent
from earshot._chunker import Chunk, Chunker
from earshot._failures import chunk_error, chunk_timeout
from earshot._sequence import TritonSequence
from earshot._span import NO_SPAN
from earshot._wire import read_labels, read_reply
from tritonclient.grpc import service_pb2

from loadtest.audio.scripts import Script
from loadtest.live.clock import Clock
from loadtest.service.connection import NO_RESUMING, connect, open_channel
from loadtest.transport.channel import Channel, PendingReply
from loadtest.transport.http2 import HeaderBlock

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
# The generated protobuf classes have no types.
_pb: Any = service_pb2


class Service:
    """A server and the scripts in its chunks; all live users of a process share it."""

    def __init__(
        self,
        url: str,
        model: str | None,
        scripts: Sequence[Script],
        timeouts: earshot.Timeouts = NO_RESUMING,
    ) -> None:
        """Ask the server for its recognizer; raises as `earshot.connect`."""
        with connect(url, model) as client:
            self.info = client.info
        self.scripts = [ChunkedScript(script, self.info) for script in scripts]
        self.clock = Clock()
        self._timeouts = timeouts
        self._channel = open_channel(url, timeouts)

    def stream(self, script: ChunkedScript) -> LiveStream:
        """Return a new stream that will send `script`."""
        return LiveStream(script, self.info, self._channel, self._timeouts)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class ChunkedScript:
    """The chunks of a script, as they are sent."""

    def __init__(self, script: Script, info: earshot.ServerInfo) -> None:
        self._samples = script.samples
        self._info = info
        chunker = Chunker(info.chunk_samples, info.lead_samples)
        self.chunks = [_tensors(chunk) for chunk in chunker.push(script.samples)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def rest(self, begin: int, end: int) -> bytes:
        """Return the last chunk of a stream: fewer samples than a full chunk, possibly none."""
        chunker = Chunker(self._info.chunk_samples, 0 if begin else self._info.lead_samples)
        if list(chunker.push(self._samples[begin:end])):
            raise ValueError(f"expected less than a chunk, got samples {begin} to {end}")
        return _tensors(chunker.end())


class Answer(NamedTuple):
    """The addition of a chunk to the transcript."""

    text: str
    tokens: tuple[int, ...]
    received_s: float
    """Time of arrival, by `time.monotonic()`."""


class _Envelope(NamedTuple):
    """The fields around the chunks of one stream."""

    block: HeaderBlock
    fields: bytes
    """The request without its chunk."""
    deadline_s: float


class LiveStream:
    """One stream, for one greenlet; use it in a `with` block, which ends it on the server."""

    def __init__(
        self,
        script: ChunkedScript,
        info: earshot.ServerInfo,
        channel: Channel,
        timeouts: earshot.Timeouts,
    ) -> None:
        self._script = script
        self._info = info
        self._channel = channel
        self._sequence = TritonSequence(info, timeouts, secrets.token_hex(8), NO_SPAN, server=0)
        self._sent = 0
        self._envelopes: dict[tuple[bool, bool], _Envelope] = {}
        self._pending: PendingReply | None = None

    def __enter__(self) -> LiveStream:
        return self

    def __exit__(self, *error: object) -> None:
        request = self._sequence.end()
        if request is not None:
            gevent.spawn(self._abandon, request)

    def send(self) -> Answer:
        """Send the next full chunk of the script; return its answer.

        Raises:
            EarshotError: There is none.
        """
        return self._exchange(self._script.chunks[self._sent], last=False)

    def end(self, begin: int, end: int) -> Answer:
        """Send the last samples and end the stream; return the answer; raises as `send`."""
        answer = self._exchange(self._script.rest(begin, end), last=True)
        self._sequence.ended()
        return answer

    def _exchange(self, tensors: bytes, *, last: bool) -> Answer:
        starting = self._sent == 0
        envelope = self._envelopes.get((starting, last)) or self._write_envelope(starting, last)
        self._pending = self._channel.start(envelope.block, envelope.fields, tensors)
        with gevent.Timeout(envelope.deadline_s) as timeout:
            try:
                reply = self._pending.wait()
            except gevent.Timeout as expired:
                if expired is not timeout:
                    raise
                raise chunk_timeout(
                    self._info, starting=starting, deadline_s=envelope.deadline_s
                ) from None
        received_s = time.monotonic()
        if not reply.succeeded:
            raise chunk_error(
                reply,
                self._info,
                starting=starting,
                deadline_s=envelope.deadline_s,
                size=len(envelope.fields) + len(tensors),
            )
        self._sent += 1
        if starting:
            self._sequence.stay(reply.headers)
        response = _pb.ModelInferResponse.FromString(reply.message)
        text, tokens = read_reply(response)
        read_labels(response, self._info.heads)
        return Answer(text, tuple(token.id for token in tokens), received_s)

    def _write_envelope(self, starting: bool, last: bool) -> _Envelope:
        call = self._sequence.write(Chunk(b"", 0, last), self._sent)
        call.request.ClearField("raw_input_contents")
        block = self._block(call.wire_s)
        envelope = _Envelope(block, call.request.SerializeToString(), call.deadline_s)
        self._envelopes[starting, last] = envelope
        return envelope

    def _block(self, wire_s: float) -> HeaderBlock:
        timeout = ("grpc-timeout", f"{round(1000 * wire_s)}m")
        return self._channel.block(_METHOD, (*self._sequence.metadata, timeout))

    def _abandon(self, request: Any) -> None:
        """End the stream on the server, after the answer to the chunk in flight."""
        if self._pending is not None:
            self._sequence.stay(self._pending.wait().headers)
        self._channel.start(self._block(self._sequence.idle_s), request.SerializeToString())


def _tensors(chunk: Chunk) -> bytes:
    """Return the part of a request that contains a chunk."""
    contents = [chunk.audio, struct.pack("<i", chunk.length)]
    return _pb.ModelInferRequest(raw_input_contents=contents).SerializeToString()
