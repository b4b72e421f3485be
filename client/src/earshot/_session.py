"""One stream without input or output: audio in, requests out; replies in, text out.

The blocking and the asyncio client both drive a `Session`; they only send its calls and wait.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ._assembler import Assembler
from ._chunker import Chunk
from ._errors import EarshotError, InvalidAudio, StreamClosed, StreamInUse
from ._failures import (
    RpcFailure,
    chunk_error,
    chunk_timeout,
    is_broken_connection,
    is_unknown_model,
)
from ._format import AudioFormat
from ._pcm import Pcm, PcmReader
from ._segmenter import Segmenter
from ._server_info import ServerInfo
from ._stream_options import StreamOptions
from ._timeouts import Timeouts
from ._transcript import ChunkResult, Transcript
from ._wire import RequestWriter, read_reply

_Error = TypeVar("_Error", bound=EarshotError)

STREAM_HEADER = "earshot-stream"
TAG_HEADER = "x-request-id"
CLIENT_CLOSED = "the client is closed, and its streams with it; connect again"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and the time that its reply may take."""

    request: Any
    deadline_s: float
    """How long the client waits for the reply."""
    wire_s: float
    """How long gRPC waits before it cancels the request. It must not do so while the server still
    works on it: an ensemble drops a cancelled sequence in its first stage, and an END no longer
    reaches the stages after it."""
    index: int
    last: bool


class Session:
    """The state of one stream.

    Pass the reply to each call to `receive`, or its failure to `explain`, before taking the next.
    """

    def __init__(
        self, info: ServerInfo, timeouts: Timeouts, form: AudioFormat, options: StreamOptions
    ) -> None:
        # 0 means "no sequence" to Triton; 63 bits, because its parameter is a signed integer.
        self.id = secrets.randbits(63) or 1
        self.tag = options.tag or f"{self.id:016x}"
        # A proxy in front of several servers uses the first one to send all chunks to the same
        # server, and writes the second one to its log.
        self.metadata = ((STREAM_HEADER, str(self.id)), (TAG_HEADER, self.tag))
        self._chosen_tag = options.tag
        self.keep_alive = options.keep_alive
        self.idle_s = info.sequence_idle_ms / 1000
        """After this time without a request, the server drops the stream by itself."""
        self._info = info
        self._timeouts = timeouts
        self._reader = PcmReader(form, info.sample_rate_hz)
        self._segmenter = Segmenter(info, options)
        self._writer = RequestWriter(
            self.id, info.chunk_samples, timeouts.queue_s, info.ensemble, self.tag
        )
        self._assembler = Assembler(info.frame_ms, keep=options.keep_transcript)
        self._undelivered: list[ChunkResult] = []
        self._error: EarshotError | None = None
        self._sent = 0
        self._closed = False
        self.finished = False
        self._open_on_server = False
        self._in_use = threading.Lock()

    @contextmanager
    def in_use(self) -> Generator[None, None, None]:
        """Keep the stream for one caller; raise StreamInUse if another one sends."""
        if not self._in_use.acquire(blocking=False):
            raise StreamInUse(
                "another thread or task is sending on this stream, and audio has one order: send "
                "from one place, or open a stream for each"
            )
        try:
            yield
        finally:
            self._in_use.release()

    @contextmanager
    def delivering(self) -> Generator[list[ChunkResult], None, None]:
        """Yield a list for the results of a call; an error that ends the call takes them along."""
        results, self._undelivered = self._undelivered, []
        try:
            yield results
        except EarshotError as error:
            error.results = tuple(results)
            raise

    def fail(self, error: EarshotError) -> None:
        """Raise `error` from the next call."""
        self._error = error

    def keep(self, result: ChunkResult) -> None:
        """Deliver a result with those of the next call."""
        self._undelivered.append(result)

    @property
    def has_more(self) -> bool:
        """Return whether there is audio that `end` would send, or a stream that it would end."""
        return not self._closed and (self._open_on_server or self.duration_s > 0)

    def push(self, piece: Pcm) -> Iterator[Call]:
        """Add audio; yield one call for each chunk that it fills. Raise InvalidAudio."""
        self._check_open()
        try:
            samples = self._reader.read(piece)
        except InvalidAudio as error:
            raise self._with_transcript(error) from None
        return self._calls(self._segmenter.push(samples))

    def finalize(self) -> Iterator[Call]:
        """Yield the calls that bring out the text of all audio so far; none without new audio."""
        self._check_open()
        yield from self._calls(self._segmenter.push(self._reader.flush()))
        yield from self._calls(self._segmenter.complete())

    def wait(self) -> Iterator[Call]:
        """Yield the call that keeps the stream open on the server; none before it has begun."""
        if self._open_on_server:
            yield from self._calls(self._segmenter.push(self._reader.flush()))
            yield from self._calls(self._segmenter.wait())

    def end(self) -> Iterator[Call]:
        """Yield the remaining calls after the last audio: at least one."""
        self._check_open()
        yield from self._calls(self._segmenter.push(self._reader.flush()))
        yield from self._calls([self._segmenter.end()])

    def receive(self, call: Call, reply: Any, sent_s: float, received_s: float) -> ChunkResult:
        """Return the result that the reply to `call` adds."""
        if call.last:
            self._closed = self.finished = True
            self._open_on_server = False
        try:
            text, tokens = read_reply(reply)
        except EarshotError as error:
            raise self._with_transcript(error) from error.__cause__
        tokens = self._segmenter.place(tokens)
        words = self._assembler.add(tokens)
        if self._segmenter.completed:
            words += self._assembler.finish()
        utterances = self._segmenter.utterances(text, words)
        open_word = self._assembler.open_word
        return ChunkResult(
            call.index, text, tokens, words, sent_s, received_s, open_word, utterances, self.tag
        )

    def may_repeat(self, call: Call, failure: RpcFailure) -> bool:
        """Tell whether `call` may be sent again as it is: a START begins its stream anew."""
        return call.index == 0 and is_broken_connection(failure)

    def may_move(self, call: Call, failure: RpcFailure) -> bool:
        """Tell whether `call` failed because its model has gone before the stream began."""
        return call.index == 0 and is_unknown_model(failure)

    def move(self, call: Call, info: ServerInfo) -> bool:
        """Begin the stream on another recognizer; return False if that takes other chunks."""
        if _framing(info) != _framing(self._info):
            return False
        self._info = info
        self._writer.ensemble = call.request.model_name = info.ensemble
        return True

    def close_error(self) -> StreamClosed:
        """Return the exception for a call that closing the client has ended."""
        return self._with_transcript(StreamClosed(CLIENT_CLOSED))

    def explain(self, call: Call, failure: RpcFailure) -> EarshotError:
        """Return the exception for a failure of `call`."""
        error = chunk_error(
            failure,
            self._info,
            starting=call.index == 0,
            deadline_s=call.deadline_s,
            size=call.request.ByteSize(),
        )
        return self._with_transcript(error)

    def time_out(self, call: Call) -> EarshotError:
        """Return the exception for a reply to `call` that is late."""
        error = chunk_timeout(self._info, starting=call.index == 0, deadline_s=call.deadline_s)
        return self._with_transcript(error)

    def add_transcript(self, error: BaseException | None) -> None:
        """Attach the transcript so far to an error that ends the stream."""
        if isinstance(error, EarshotError) and error.transcript is None:
            self._with_transcript(error)

    def abandon(self) -> Any | None:
        """Close the stream; return the request that ends it on the server, if it is open there."""
        self._closed = True
        if not self._open_on_server:
            return None
        self._open_on_server = False
        return self._writer.write_end()

    @property
    def duration_s(self) -> float:
        """Return the length of the audio that the stream has taken so far."""
        return self._reader.duration_s

    @property
    def transcript(self) -> Transcript:
        """Return the transcript so far."""
        transcript = self._assembler.transcript(self.duration_s)
        return replace(transcript, utterances=self._segmenter.ended, warnings=self._reader.warnings)

    def _calls(self, chunks: Iterable[Chunk]) -> Iterator[Call]:
        for chunk in chunks:
            index = self._sent
            self._sent += 1
            self._open_on_server = True
            request = self._writer.write(chunk, first=index == 0)
            deadline_s = self._deadline_s(index, chunk.last)
            yield Call(request, deadline_s, deadline_s + self.idle_s, index, chunk.last)

    def _deadline_s(self, index: int, last: bool) -> float:
        deadline_s = self._timeouts.finish_s if last else self._timeouts.chunk_s
        return deadline_s + self._timeouts.queue_s if index == 0 else deadline_s

    def _check_open(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._closed:
            raise self._with_transcript(StreamClosed("the stream has ended; start a new one"))

    def _with_transcript(self, error: _Error) -> _Error:
        error.transcript = self.transcript
        error.tag = self._chosen_tag
        return error


def _framing(info: ServerInfo) -> tuple[int, ...]:
    return info.sample_rate_hz, info.chunk_samples, info.lead_samples, info.frame_ms
