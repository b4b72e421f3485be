"""One recording without the input and output: audio in, requests out; replies in, text out.

The sync and the asyncio client both drive a `Recognition`: they send its calls, a few at a time,
try again when it says so, and hand it what comes back.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ._assembler import Assembler
from ._cutter import Cutter, Piece
from ._errors import EarshotError
from ._failures import RpcFailure, is_transient, piece_error
from ._joiner import Joiner
from ._pcm import Pcm, PcmReader, Samples
from ._server_info import OfflineInfo
from ._timeouts import Timeouts
from ._transcript import FailedSpan, Token, Transcript
from ._wire import piece_request, read_reply

PIECES_AT_ONCE = 8
"""Under way at a time: enough to fill a batch."""
TRIES = 4
"""Of each piece, the first included."""
FIRST_DELAY_S = 0.5
"""Before the second try; each further one waits twice as long."""
RECOGNIZE_DEPRECATED = "recognize is deprecated and will be removed in 0.3: call transcribe"


@dataclass
class PieceCall:
    """One piece to send, and what becomes of it."""

    request: Any
    start_sample: int
    end_sample: int
    overlap_samples: int
    tries: int = 0
    tokens: tuple[Token, ...] = ()
    error: EarshotError | None = None


class Recognition:
    """The state of one recording. Memory grows with its text, not with its audio."""

    def __init__(
        self,
        info: OfflineInfo,
        timeouts: Timeouts,
        sample_rate_hz: float,
        channels: int,
        at_once: int,
    ) -> None:
        if at_once < 1:
            raise ValueError(f"at_once must be at least 1, not {at_once}")
        self.at_once = at_once
        self.timeout_s = timeouts.piece_s
        self._info = info
        self._reader = PcmReader(sample_rate_hz, channels, info.sample_rate_hz)
        self._cutter = Cutter(info.sample_rate_hz, info.frame_samples, info.longest_samples)
        self._calls: list[PieceCall] = []
        self._done_samples = 0

    def push(self, piece: Pcm) -> Iterator[PieceCall]:
        """A call per piece of the recording that this audio completes; raises InvalidAudio."""
        yield from self._cut(self._reader.read(piece))

    def end(self) -> Iterator[PieceCall]:
        """The calls that remain when no more audio comes."""
        yield from self._cut(self._reader.flush())
        yield from map(self._call, self._cutter.end())

    def receive(self, call: PieceCall, reply: Any) -> None:
        """Takes the answer to `call`; one that breaks the contract counts as a failure."""
        call.request = None
        first_frame = call.start_sample // self._info.frame_samples
        try:
            _, tokens = read_reply(reply)
        except EarshotError as error:
            call.error = error
            return
        call.tokens = tuple(replace(token, frame=token.frame + first_frame) for token in tokens)

    def fail(self, call: PieceCall, failure: RpcFailure) -> float | None:
        """Seconds to wait before the next try of `call`; None gives it up."""
        call.tries += 1
        if call.tries < TRIES and is_transient(failure):
            return FIRST_DELAY_S * 2 ** (call.tries - 1)
        call.request = None
        call.error = piece_error(failure, self._info, self.timeout_s)
        return None

    def done(self, call: PieceCall) -> float:
        """Seconds of audio that are done with, now that `call` is."""
        samples = call.end_sample - call.start_sample - call.overlap_samples
        self._done_samples += samples
        return self._done_samples / self._info.sample_rate_hz

    @contextmanager
    def keeping_text(self) -> Generator[None, None, None]:
        """An error that ends the recording half way takes along what was recognized before it."""
        try:
            yield
        except EarshotError as error:
            error.transcript = self.transcript
            raise

    def finish(self) -> Transcript:
        """The whole transcript, with what failed; raises if all of it did."""
        errors = [call.error for call in self._calls if call.error]
        if errors and len(errors) == len(self._calls):
            raise errors[0]
        return self.transcript

    @property
    def transcript(self) -> Transcript:
        """All that has been recognized so far."""
        assembler = Assembler(self._info.frame_ms)
        assembler.add(self._join())
        assembler.finish()
        transcript = assembler.transcript(self._reader.duration_s)
        return replace(transcript, failed=tuple(self._failed()))

    def _cut(self, samples: Samples) -> Iterator[PieceCall]:
        yield from map(self._call, self._cutter.push(samples))

    def _call(self, piece: Piece) -> PieceCall:
        bucket = next(
            samples
            for samples in map(self._info.bucket_samples, self._info.buckets_ms)
            if samples >= piece.samples.size
        )
        request = piece_request(self._info.ensemble, piece.samples, bucket)
        call = PieceCall(request, piece.start_sample, piece.end_sample, piece.overlap_samples)
        self._calls.append(call)
        return call

    def _join(self) -> list[Token]:
        joiner = Joiner(self._info.frame_ms)
        heard_before = False
        for call in self._calls:
            first = call.start_sample // self._info.frame_samples
            overlap = first, first + call.overlap_samples // self._info.frame_samples
            joiner.add(call.tokens, overlap if call.overlap_samples and heard_before else None)
            heard_before = call.error is None
        return joiner.tokens

    def _failed(self) -> Iterator[FailedSpan]:
        """What no other piece has heard of each piece that failed."""
        rate_hz = self._info.sample_rate_hz
        heard_to = 0
        for index, call in enumerate(self._calls):
            if call.error is None:
                heard_to = call.end_sample
                continue
            after = self._calls[index + 1 : index + 2]
            end = min([call.end_sample, *(c.start_sample for c in after if c.error is None)])
            start = max(call.start_sample, heard_to)
            yield FailedSpan(start / rate_hz, end / rate_hz, str(call.error))
