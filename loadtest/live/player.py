"""Plays scripts into the service as live streams: in real time, on an absolute clock.

Open loop: chunk k of a stream is due at `start + (k + 1) * chunk`, whether or not the answer to
chunk k - 1 has come. A chunk that has to wait for that answer is sent late, and the wait counts as
its latency. When a script ends, the next stream begins where the last audio ended, with a fresh
id: `n` players are `n` live streams at every moment, and streams end and begin all the time. The
first stream of a player is cut short at a random position, so that the ends are spread.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from typing import Protocol

import gevent
from earshot import ChunkResult, Client, EarshotError, ServerBusy, Stream

from loadtest.audio.recordings import SAMPLE_RATE_HZ
from loadtest.audio.scripts import Script
from loadtest.live.samples import FELL_BEHIND_S, FinishedStream, SampleRecorder

UNANSWERED_MS = 1000 * FELL_BEHIND_S
"""Latency of a chunk that is never answered, if it did not wait longer: the longest that any stream
waits. Its true latency has no end; without it the percentiles would improve with every loss."""
PAUSE_AFTER_FAILURE_S = 1.0


class SampleObserver(Protocol):
    """Receives every sample as it comes, for charts."""

    def chunk(self, latency_ms: float, lateness_ms: float) -> None:
        """Take the figures of a chunk; `lateness_ms` is NaN if the server made it late."""
        ...

    def final(self, latency_ms: float) -> None:
        """Take the latency of a stream's final text."""
        ...

    def failure(self, error: Exception) -> None:
        """Take the error of a stream that has failed."""
        ...


class FellBehind(Exception):
    """The service answers more slowly than real time."""


class StreamPlayer:
    """Plays one live stream after another."""

    def __init__(
        self,
        number: int,
        client: Client,
        scripts: Sequence[Script],
        recorder: SampleRecorder,
        observer: SampleObserver,
    ) -> None:
        self._number = number
        self._client = client
        self._scripts = scripts
        self._recorder = recorder
        self._observer = observer
        self._start_s: float | None = None
        self._answered_s = 0.0

    def play(self) -> None:
        """Play one stream, to its end or to the end of the window."""
        script = random.randrange(len(self._scripts))
        length = len(self._scripts[script].samples)
        if self._start_s is None:
            chunk_s = self._client.info.chunk_ms / 1000
            self._start_s = time.monotonic() + random.uniform(0, max(1.0, chunk_s))
            length = random.randint(self._client.info.chunk_samples, length)
        self._recorder.active_streams += 1
        try:
            with self._client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                self._play(stream, script, length, self._start_s)
            self._start_s += length / SAMPLE_RATE_HZ
        except (EarshotError, FellBehind) as error:
            self._recorder.record_failure(type(error).__name__, str(error))
            self._observer.failure(error)
            self.reset_phase()
            gevent.sleep(PAUSE_AFTER_FAILURE_S)
        finally:
            self._recorder.active_streams -= 1

    def reset_phase(self) -> None:
        """Begin the next stream at a random phase instead of where the last one ended."""
        self._start_s = None

    def _play(self, stream: Stream, script: int, length: int, start_s: float) -> None:
        info, samples = self._client.info, self._scripts[script].samples
        results: list[ChunkResult] = []
        begin, end = 0, info.chunk_samples - info.lead_samples
        while end <= length:
            due_s = start_s + end / SAMPLE_RATE_HZ
            lateness_ms = self._wait_until(due_s)
            if self._recorder.is_over(due_s):
                break
            results += self._send(stream, samples[begin:end], due_s, lateness_ms)
            begin, end = end, end + info.chunk_samples
        over = end <= length
        if over and not results:
            return
        due_s = start_s + (begin if over else length) / SAMPLE_RATE_HZ
        if not over:
            self._wait_until(due_s)
            stream.send(samples[begin:length])
        chunks = len(results)
        results += stream.end()
        self._answered_s = time.monotonic()
        if not over:
            latency_ms = 1000 * (self._answered_s - due_s)
            self._recorder.record_final(due_s, latency_ms)
            self._observer.final(latency_ms)
        complete = length == len(samples) and not over
        self._recorder.record_stream(_finished(script, results, chunks, complete))

    def _wait_until(self, due_s: float) -> float:
        """Sleep until `due_s`; return the lateness in ms, NaN if the server is the cause."""
        in_time = self._answered_s <= due_s
        while (wait_s := due_s - time.monotonic()) > 0:
            gevent.sleep(wait_s)
        return 1000 * (time.monotonic() - due_s) if in_time else math.nan

    def _send(
        self, stream: Stream, piece: object, due_s: float, lateness_ms: float
    ) -> list[ChunkResult]:
        try:
            if time.monotonic() - due_s > FELL_BEHIND_S:
                raise FellBehind(f"the text is {FELL_BEHIND_S:.0f} s behind real time")
            results = stream.send(piece)  # pyright: ignore
        except ServerBusy:  # refused: a stream that has not begun waits for nothing
            raise
        except (EarshotError, FellBehind):
            waited_ms = 1000 * (time.monotonic() - due_s)
            self._recorder.record_unanswered(self._number, due_s, max(waited_ms, UNANSWERED_MS))
            raise
        except gevent.GreenletExit:  # stopped while waiting: the latency is at least this long
            self._record(due_s, time.monotonic(), lateness_ms)
            raise
        self._answered_s = results[-1].received_s
        self._record(due_s, self._answered_s, lateness_ms)
        return results

    def _record(self, due_s: float, received_s: float, lateness_ms: float) -> None:
        latency_ms = 1000 * (received_s - due_s)
        self._recorder.record_chunk(self._number, due_s, latency_ms, lateness_ms)
        self._observer.chunk(latency_ms, lateness_ms)


def _finished(
    script: int, results: list[ChunkResult], chunks: int, complete: bool
) -> FinishedStream:
    compared = results if complete else results[:chunks]
    return FinishedStream(
        script,
        chunks,
        complete,
        tuple(token.id for result in compared for token in result.tokens),
        "".join(result.text for result in compared),
    )
