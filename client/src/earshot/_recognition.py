"""The offline recognition of one recording, without input or output.

Audio goes in and requests come out; replies go in and text comes out. The blocking and the asyncio
client both drive a `Recognition`: they send its calls, a few at a time, and retry when it asks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ._assembler import Assembler
from ._cutter import Cutter, Piece
from ._errors import EarshotError
from ._failures import Remedy, RpcFailure, piece_error, remedy
from ._format import AudioFormat
from ._joiner import Joiner
from ._pcm import Pcm, PcmReader, Samples
from ._server_info import OfflineInfo
from ._span import Headers
from ._stream_options import NO_OPTIONS, StreamOptions
from ._timeouts import Timeouts
from ._tracing import start_span
from ._transcript import FailedSpan, Token, Transcript
from ._wire import address_piece, piece_request, read_reply

PIECES_AT_ONCE = 8
"""Default number of pieces in flight at a time: enough to fill a batch."""
ATTEMPTS = 4
"""Attempts per piece, including the first."""
FIRST_DELAY_S = 0.5
"""Delay before the second attempt; it doubles with each further attempt."""
OUTAGE_DELAY_S = 0.5
"""Delay between attempts to reach a server that is gone."""
RECOGNIZE_DEPRECATED = "recognize is deprecated and will be removed in 0.3: call transcribe"


@dataclass
class PieceCall:
    """One piece to send, and its result."""

    request: Any
    start_sample: int
    end_sample: int
    overlap_samples: int
    trace: Headers = ()
    """The trace context of the recording's span, if the server is to trace the piece."""
    attempts: int = 0
    tokens: tuple[Token, ...] = ()
    error: EarshotError | None = None


@dataclass(frozen=True)
class Retry:
    """The way to continue with a piece that failed."""

    delay_s: float
    look_again: bool = False
    """True to look for another generation of the recognizer first."""


class Recognition:
    """The state of one recording. Its memory grows with the text, not with the audio."""

    def __init__(
        self,
        info: OfflineInfo,
        timeouts: Timeouts,
        form: AudioFormat,
        at_once: int,
        options: StreamOptions = NO_OPTIONS,
    ) -> None:
        if at_once < 1:
            raise ValueError(f"expected at_once of at least 1, got {at_once}")
        self.at_once = at_once
        self.timeout_s = timeouts.piece_s
        self._info = info
        self._reader = PcmReader(form, info.sample_rate_hz)
        self._cutter = Cutter(info.sample_rate_hz, info.frame_samples, info.longest_samples)
        self._calls: list[PieceCall] = []
        self._done_samples = 0
        self._outage_s = timeouts.outage_s
        self._away_since_s: float | None = None
        self._span = start_span("transcribe", info, options.tag, options.trace_every)

    def push(self, piece: Pcm) -> Iterator[PieceCall]:
        """Add audio; yield a call for each piece that it completes. Raise InvalidAudio."""
        yield from self._cut(self._reader.read(piece))

    def end(self) -> Iterator[PieceCall]:
        """Yield the remaining calls after the last audio."""
        yield from self._cut(self._reader.flush())
        yield from map(self._call, self._cutter.end())

    def receive(self, call: PieceCall, reply: Any) -> None:
        """Store the reply to `call`; a reply that breaks the contract counts as a failure."""
        self._away_since_s = None
        call.request = None
        first_frame = call.start_sample // self._info.frame_samples
        try:
            _, tokens = read_reply(reply)
        except EarshotError as error:
            call.error = error
            return
        call.tokens = tuple(replace(token, frame=token.frame + first_frame) for token in tokens)

    def fail(self, call: PieceCall, failure: RpcFailure, now_s: float) -> Retry | None:
        """Return the retry of `call` after a failure at `now_s`, or None to give it up.

        While the server cannot be reached, attempts do not count: the recording waits until no
        piece has been answered for `Timeouts.outage_s`.
        """
        needed = remedy(failure)
        if needed is Remedy.WAIT:
            if self._away_since_s is None:
                self._away_since_s = now_s
            if now_s - self._away_since_s < self._outage_s:
                return Retry(OUTAGE_DELAY_S)
        call.attempts += 1
        if call.attempts < ATTEMPTS and needed in (Remedy.TRY_AGAIN, Remedy.LOOK_AGAIN):
            delay_s = FIRST_DELAY_S * 2 ** (call.attempts - 1)
            return Retry(delay_s, look_again=needed is Remedy.LOOK_AGAIN)
        size = call.request.ByteSize()
        call.request = None
        call.error = piece_error(failure, self._info, self.timeout_s, size)
        return None

    def move(self, call: PieceCall, info: OfflineInfo | None) -> None:
        """Send `call` and later pieces to another recognizer, if it takes the same pieces."""
        if info is not None and _framing(info) == _framing(self._info):
            self._info = info
            address_piece(call.request, info)

    def done(self, call: PieceCall) -> float:
        """Mark `call` as done; return the seconds of audio that are done."""
        samples = call.end_sample - call.start_sample - call.overlap_samples
        self._done_samples += samples
        return self._done_samples / self._info.sample_rate_hz

    @contextmanager
    def keeping_text(self) -> Generator[None, None, None]:
        """Attach the transcript so far to an error that ends the recording early; end its span."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, EarshotError):
                error.transcript = self.transcript
            self._end_span(error)
            raise

    def finish(self) -> Transcript:
        """Return the transcript with its failed spans; raise an error if all pieces failed."""
        errors = [call.error for call in self._calls if call.error]
        if errors and len(errors) == len(self._calls):
            self._end_span(errors[0])
            raise errors[0]
        self._end_span(None)
        return self.transcript

    @property
    def transcript(self) -> Transcript:
        """Return the transcript so far."""
        assembler = Assembler(self._info.frame_ms)
        assembler.add(self._join())
        assembler.finish()
        transcript = assembler.transcript(self._reader.duration_s)
        return replace(transcript, failed=tuple(self._failed()), warnings=self._reader.warnings)

    def _cut(self, samples: Samples) -> Iterator[PieceCall]:
        yield from map(self._call, self._cutter.push(samples))

    def _call(self, piece: Piece) -> PieceCall:
        bucket = next(
            samples
            for samples in map(self._info.bucket_samples, self._info.buckets_ms)
            if samples >= piece.samples.size
        )
        request = piece_request(piece.samples, bucket)
        address_piece(request, self._info)
        trace = self._span.headers(len(self._calls))
        call = PieceCall(
            request, piece.start_sample, piece.end_sample, piece.overlap_samples, trace
        )
        self._calls.append(call)
        return call

    def _end_span(self, error: BaseException | None) -> None:
        if error is not None:
            self._span.failed(error)
        self._span.end(self._reader.duration_s, len(self._calls))

    def _join(self) -> list[Token]:
        joiner = Joiner(self._info.frame_ms)
        recognized_before = False
        for call in self._calls:
            first = call.start_sample // self._info.frame_samples
            overlap = first, first + call.overlap_samples // self._info.frame_samples
            joiner.add(call.tokens, overlap if call.overlap_samples and recognized_before else None)
            recognized_before = call.error is None
        return joiner.tokens

    def _failed(self) -> Iterator[FailedSpan]:
        """Yield the span of each failed piece that no other piece covers."""
        rate_hz = self._info.sample_rate_hz
        recognized_to = 0
        for index, call in enumerate(self._calls):
            if call.error is None:
                recognized_to = call.end_sample
                continue
            after = self._calls[index + 1 : index + 2]
            end = min([call.end_sample, *(c.start_sample for c in after if c.error is None)])
            start = max(call.start_sample, recognized_to)
            yield FailedSpan(start / rate_hz, end / rate_hz, str(call.error))


def _framing(info: OfflineInfo) -> tuple[int, int, tuple[int, ...]]:
    return info.sample_rate_hz, info.frame_ms, info.buckets_ms
