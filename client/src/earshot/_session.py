"""One stream without the input and output: audio in, requests out; replies in, text out.

The sync and the asyncio client both drive a `Session` and add only the waiting.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ._assembler import Assembler
from ._chunker import Chunk, Chunker
from ._errors import EarshotError, InvalidAudio, StreamClosed
from ._failures import RpcFailure, chunk_error, chunk_timeout
from ._pcm import Pcm, PcmReader
from ._server_info import ServerInfo
from ._timeouts import Timeouts
from ._transcript import ChunkResult, Transcript
from ._wire import RequestWriter, read_reply

_Error = TypeVar("_Error", bound=EarshotError)

STREAM_HEADER = "earshot-stream"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and how long its answer may take."""

    request: Any
    deadline_s: float
    """For the client, which waits no longer than this."""
    wire_s: float
    """For gRPC, which then cancels the request. That must not happen while the server still works
    on it: an ensemble drops a cancelled sequence in its first stage, and an END no longer reaches
    the stages behind."""
    index: int
    last: bool


class Session:
    """The state of one stream.

    Each Call must be answered (`receive`) or given up (`explain`) before the next is taken.
    """

    def __init__(
        self, info: ServerInfo, timeouts: Timeouts, sample_rate_hz: float, channels: int
    ) -> None:
        # 0 means "no sequence" to Triton; 63 bits, because its parameter is a signed integer.
        self.id = secrets.randbits(63) or 1
        # A proxy in front of several servers needs it to send all chunks to the same one.
        self.metadata = ((STREAM_HEADER, str(self.id)),)
        self.idle_s = info.sequence_idle_ms / 1000
        """After so long without an answer the server forgets the stream by itself."""
        self._info = info
        self._timeouts = timeouts
        self._reader = PcmReader(sample_rate_hz, channels, info.sample_rate_hz)
        self._chunker = Chunker(info.chunk_samples, info.lead_samples)
        self._writer = RequestWriter(self.id, info.chunk_samples, timeouts.queue_s, info.ensemble)
        self._assembler = Assembler(info.frame_ms)
        self._sent = 0
        self._closed = False
        self.finished = False
        self._server_holds_it = False

    def push(self, piece: Pcm) -> Iterator[Call]:
        """One Call per chunk that `piece` fills."""
        self._check_open()
        try:
            samples = self._reader.read(piece)
        except InvalidAudio as error:
            raise self._with_transcript(error) from None
        return self._calls(self._chunker.push(samples))

    def end(self) -> Iterator[Call]:
        """The Calls that remain when no more audio comes: at least one."""
        self._check_open()
        yield from self._calls(self._chunker.push(self._reader.flush()))
        yield from self._calls([self._chunker.end()])

    def receive(self, call: Call, reply: Any, sent_s: float, received_s: float) -> ChunkResult:
        """What the answer to `call` adds."""
        if call.last:
            self._closed = self.finished = True
            self._server_holds_it = False
        try:
            text, tokens = read_reply(reply)
        except EarshotError as error:
            raise self._with_transcript(error) from error.__cause__
        words = self._assembler.add(tokens)
        if call.last:
            words += self._assembler.finish()
        return ChunkResult(call.index, text, tokens, words, sent_s, received_s)

    def explain(self, call: Call, failure: RpcFailure) -> EarshotError:
        """The exception to raise because `call` failed."""
        error = chunk_error(
            failure, self._info, starting=call.index == 0, deadline_s=call.deadline_s
        )
        return self._with_transcript(error)

    def time_out(self, call: Call) -> EarshotError:
        """The exception to raise because the answer to `call` has not come in time."""
        error = chunk_timeout(self._info, starting=call.index == 0, deadline_s=call.deadline_s)
        return self._with_transcript(error)

    def add_transcript(self, error: BaseException | None) -> None:
        """Nothing recognized is lost, whatever it is that ends the stream."""
        if isinstance(error, EarshotError) and error.transcript is None:
            self._with_transcript(error)

    def abandon(self) -> Any | None:
        """Closes the stream; returns the request that makes the server drop it, if it must."""
        self._closed = True
        if not self._server_holds_it:
            return None
        self._server_holds_it = False
        return self._writer.write_end()

    @property
    def duration_s(self) -> float:
        """The length of the audio that the stream has taken so far."""
        return self._reader.duration_s

    @property
    def transcript(self) -> Transcript:
        """All that has been recognized so far."""
        return self._assembler.transcript(self.duration_s)

    def _calls(self, chunks: Iterable[Chunk]) -> Iterator[Call]:
        for chunk in chunks:
            index = self._sent
            self._sent += 1
            self._server_holds_it = True
            request = self._writer.write(chunk, first=index == 0)
            deadline_s = self._deadline_s(index, chunk.last)
            yield Call(request, deadline_s, deadline_s + self.idle_s, index, chunk.last)

    def _deadline_s(self, index: int, last: bool) -> float:
        deadline_s = self._timeouts.finish_s if last else self._timeouts.chunk_s
        return deadline_s + self._timeouts.queue_s if index == 0 else deadline_s

    def _check_open(self) -> None:
        if self._closed:
            raise self._with_transcript(StreamClosed("the stream has ended; start a new one"))

    def _with_transcript(self, error: _Error) -> _Error:
        error.transcript = self.transcript
        return error
