"""One stream without input or output: audio in, requests out; replies in, text out.

The blocking and the asyncio client both drive a `Session`; they only send its calls and wait.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from ._assembler import Assembler
from ._chunker import Chunk
from ._errors import EarshotError, InvalidAudio, StreamClosed, StreamInUse, StreamLost
from ._failures import RpcFailure, chunk_error, chunk_timeout
from ._format import AudioFormat
from ._history import CONTEXT_S, History
from ._lag import Lag
from ._pcm import Pcm, PcmReader
from ._seam import Seam
from ._segmenter import Segmenter
from ._sequence import Call, TritonSequence, require_same_chunks
from ._server_info import ServerInfo
from ._stream_options import StreamOptions
from ._timeouts import Timeouts
from ._tracing import start_span
from ._transcript import ChunkResult, Label, Resumption, Token, Transcript
from ._wire import read_labels, read_reply

_Error = TypeVar("_Error", bound=EarshotError)

CLIENT_CLOSED = "the client is closed, and its streams with it; connect again"


class Session:
    """The state of one stream.

    Pass the reply to each call to `receive`, or its failure to `explain`, before taking the next.
    """

    def __init__(
        self,
        info: ServerInfo,
        timeouts: Timeouts,
        form: AudioFormat,
        options: StreamOptions,
        *,
        server: int = 0,
    ) -> None:
        self.tag = options.tag or secrets.token_hex(8)
        self._chosen_tag = options.tag
        self.keep_alive = options.keep_alive
        self.span = start_span("stream", info, self.tag, options.trace_every)
        self.sequence = TritonSequence(info, timeouts, self.tag, self.span, server=server)
        """The sequence that currently carries the stream."""
        self._sequences = [self.sequence]
        self.timeouts = timeouts
        self.resumptions: tuple[Resumption, ...] = ()
        self._info = info
        self._reader = PcmReader(form, info.sample_rate_hz)
        self._segmenter = Segmenter(info, options)
        self._assembler = Assembler(info.frame_ms, keep=options.keep_transcript)
        self._labels: dict[str, Label] = {}
        self._undelivered: list[ChunkResult] = []
        self._error: EarshotError | None = None
        self._history = History(info, CONTEXT_S if timeouts.resume_s else 0.0)
        self._seam: Seam | None = None
        self._lag = Lag(info.chunk_ms)
        self._sent = 0
        self._closed = False
        self.finished = False
        self._in_use = threading.Lock()

    @contextmanager
    def in_use(self) -> Generator[None, None, None]:
        """Reserve the stream for one caller; raise StreamInUse if another one is sending."""
        if not self._in_use.acquire(blocking=False):
            raise StreamInUse(
                "another thread or task is sending on this stream, and its audio must stay in "
                "order: send from one of them, or open a stream for each"
            )
        try:
            yield
        finally:
            self._in_use.release()

    @contextmanager
    def delivering(self) -> Generator[list[ChunkResult], None, None]:
        """Yield a list for the results of a call; an error that ends the call includes them."""
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
        return not self._closed and (self.sequence.is_open or self.duration_s > 0)

    def push(self, piece: Pcm) -> Iterator[Call]:
        """Add audio; yield one call for each chunk that it fills. Raise InvalidAudio."""
        self.check_open()
        try:
            samples = self._reader.read(piece)
        except InvalidAudio as error:
            raise self._with_transcript(error) from None
        return self._calls(self._segmenter.push(samples))

    def finalize(self) -> Iterator[Call]:
        """Yield the calls needed for the text of all audio so far; none without new audio."""
        self.check_open()
        yield from self._calls(self._segmenter.push(self._reader.flush()))
        yield from self._calls(self._segmenter.complete())

    def wait(self) -> Iterator[Call]:
        """Yield the call that keeps the stream open on the server; none before it has begun."""
        if self.sequence.is_open:
            yield from self._calls(self._segmenter.push(self._reader.flush()))
            yield from self._calls(self._segmenter.wait())

    def end(self) -> Iterator[Call]:
        """Yield the remaining calls after the last audio: at least one."""
        self.check_open()
        yield from self._calls(self._segmenter.push(self._reader.flush()))
        yield from self._calls([self._segmenter.end()])

    def receive(
        self,
        call: Call,
        reply: Any,
        sent_s: float,
        received_s: float,
        resumed: Resumption | None = None,
    ) -> ChunkResult:
        """Return the result that the reply to `call` adds."""
        if call.last:
            self._closed = self.finished = True
            call.sequence.ended()
        tokens = self.read(call, reply)
        if self._seam is not None:
            tokens = self._seam.join(tokens)
            self._seam = None if self._seam.is_done else self._seam
        self._history.add(call.chunk, tokens)
        tokens = self._segmenter.place(tokens)
        words = self._assembler.add(tokens)
        with self._adding_transcript():
            self._labels = read_labels(reply, call.sequence.info.heads)
        if self._segmenter.completed:
            words += self._assembler.finish()
        if resumed is not None:
            self.resumptions += (resumed,)
            self.span.resumed(resumed)
        if call.last:
            self._end_span()
        text = "".join(token.text for token in tokens)
        return ChunkResult(
            call.index,
            text,
            tokens,
            words,
            sent_s,
            received_s,
            self._assembler.open_word,
            self._segmenter.utterances(text, words),
            self.tag,
            self._lag.answered(sent_s, received_s, self.duration_s, resumed=resumed is not None),
            resumed,
            self._labels,
        )

    def read(self, call: Call, reply: Any) -> tuple[Token, ...]:
        """Return the tokens of a reply, with frames from the start of the stream."""
        with self._adding_transcript():
            return call.sequence.place(read_reply(reply)[1])

    @contextmanager
    def _adding_transcript(self) -> Generator[None]:
        """Attach the transcript so far to an error raised in the block."""
        try:
            yield
        except EarshotError as error:
            raise self._with_transcript(error) from error.__cause__

    def sequence_on(self, info: ServerInfo, server: int) -> TritonSequence:
        """Return a sequence that can continue the stream, starting from the audio still kept.

        Raises:
            UnsupportedServer: The recognizer expects chunks of another form than the stream has.
        """
        require_same_chunks(self._info, info)
        self.check_open()
        first_chunk = self._history.first_chunk
        sequence = TritonSequence(
            info, self.timeouts, self.tag, self.span, server=server, first_chunk=first_chunk
        )
        self._sequences.append(sequence)
        return sequence

    def repeat(self, sequence: TritonSequence) -> Iterator[Call]:
        """Yield the calls that repeat the audio before the first unanswered chunk."""
        for index, chunk in enumerate(tuple(self._history.chunks), sequence.first_chunk):
            self.check_open()
            yield sequence.write(chunk, index)
        self.check_open()

    def switch(self, sequence: TritonSequence, replayed: Sequence[Token]) -> None:
        """Continue the stream on `sequence`, which emitted `replayed` for the repeated audio."""
        history = self._history
        self._seam = Seam(history.tokens, replayed, history.end_frame, self._info.frame_ms)
        self.sequence = sequence

    def free(self, sequence: TritonSequence) -> Any | None:
        """Return the request that ends a sequence on its server, if it may be open there."""
        with suppress(ValueError):
            self._sequences.remove(sequence)
        return sequence.end()

    def lost(self, message: str) -> StreamLost:
        """Return the exception for a stream that no server could continue."""
        return self._with_transcript(StreamLost(message))

    def close_error(self) -> StreamClosed:
        """Return the exception for a call that ended because the client was closed."""
        return self._with_transcript(StreamClosed(CLIENT_CLOSED))

    def explain(self, call: Call, failure: RpcFailure) -> EarshotError:
        """Return the exception for a failure of `call`."""
        error = chunk_error(
            failure,
            call.sequence.info,
            starting=call.starts,
            deadline_s=call.deadline_s,
            size=call.request.ByteSize(),
        )
        return self._with_transcript(error)

    def time_out(self, call: Call) -> EarshotError:
        """Return the exception for a reply to `call` that is late."""
        error = chunk_timeout(call.sequence.info, starting=call.starts, deadline_s=call.deadline_s)
        return self._with_transcript(error)

    def add_transcript(self, error: BaseException | None) -> None:
        """Attach the transcript so far to an error that ends the stream."""
        if isinstance(error, EarshotError) and error.transcript is None:
            self._with_transcript(error)

    def close(self) -> list[TritonSequence]:
        """Close the stream; return the sequences that are to be ended on their servers."""
        self._closed = True
        self._end_span()
        return list(self._sequences)

    @property
    def duration_s(self) -> float:
        """Return the length of the audio sent so far, in seconds."""
        return self._reader.duration_s

    @property
    def acknowledged_s(self) -> float:
        """Return the position in the audio up to which the server has answered."""
        info = self._info
        if self.finished:
            return self.duration_s
        samples = self._history.answered * info.chunk_samples - info.lead_samples
        return self._segmenter.audio_s(max(0, samples))

    @property
    def pause_ms(self) -> int:
        """Return the milliseconds of answered audio since the last token, as far as it is kept."""
        return self._history.pause_frames * self._info.frame_ms

    @property
    def transcript(self) -> Transcript:
        """Return the transcript so far."""
        transcript = self._assembler.transcript(self.duration_s)
        return replace(
            transcript,
            utterances=self._segmenter.ended,
            warnings=self._reader.warnings,
            labels=self._labels,
        )

    def check_open(self) -> None:
        """Raise StreamClosed if the stream has ended, or the error with which keep-alive failed."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._closed:
            raise self._with_transcript(StreamClosed("the stream has ended; start a new one"))

    def _end_span(self) -> None:
        self.span.end(self.duration_s, self._sent)

    def _calls(self, chunks: Iterable[Chunk]) -> Iterator[Call]:
        for chunk in chunks:
            index = self._sent
            self._sent += 1
            yield self.sequence.write(chunk, index)

    def _with_transcript(self, error: _Error) -> _Error:
        error.transcript = self.transcript
        error.tag = self._chosen_tag
        return error
