"""Play scripts into the service as live streams, in real time by an absolute clock.

Open loop: chunk k of a stream is due at `start + (k + 1) * chunk`, whether or not the answer to
chunk k - 1 has come. A chunk that has to wait for that answer is sent late, and the wait counts as
its latency. When a script ends, the next stream begins where the last audio ended, with a new id:
`n` players are always `n` live streams, and streams end and begin all the time. The first stream of
a player is cut short at a random position, so that the ends are spread.
"""

from __future__ import annotations

import math
import random
import time

import gevent
from earshot import EarshotError, ServerBusy

from loadtest.audio.recordings import SAMPLE_RATE_HZ
from loadtest.live.exchange import Answer, LiveStream, Service
from loadtest.live.samples import FELL_BEHIND_S, FinishedStream, SampleRecorder

UNANSWERED_MS = 1000 * FELL_BEHIND_S
"""Least latency of a chunk that is never answered: the longest time that any stream waits. Its true
latency is infinite; if it were left out, the percentiles would improve with every loss."""
PAUSE_AFTER_FAILURE_S = 1.0


class FellBehind(Exception):
    """The service answers more slowly than real time."""


class StreamPlayer:
    """Plays one live stream after another."""

    def __init__(self, number: int, service: Service, recorder: SampleRecorder) -> None:
        self._number = number
        self._service = service
        self._recorder = recorder
        self._start_s: float | None = None
        self._answered_s = 0.0

    def play(self) -> None:
        """Play one stream, to its end or to the end of the window."""
        info, scripts = self._service.info, self._service.scripts
        script = random.randrange(len(scripts))
        length = len(scripts[script])
        if self._start_s is None:
            self._start_s = time.monotonic() + random.uniform(0, max(1.0, info.chunk_ms / 1000))
            length = random.randint(info.chunk_samples, length)
        self._recorder.active_streams += 1
        try:
            with self._service.stream(scripts[script]) as stream:
                self._play(stream, script, length, self._start_s)
            self._start_s += length / SAMPLE_RATE_HZ
        except (EarshotError, FellBehind) as error:
            self._recorder.record_failure(type(error).__name__, str(error))
            self.reset_phase()
            gevent.sleep(PAUSE_AFTER_FAILURE_S)
        finally:
            self._recorder.active_streams -= 1

    def reset_phase(self) -> None:
        """Begin the next stream at a random phase instead of where the last one ended."""
        self._start_s = None

    def _play(self, stream: LiveStream, script: int, length: int, start_s: float) -> None:
        info = self._service.info
        answers: list[Answer] = []
        begin, end = 0, info.chunk_samples - info.lead_samples
        while end <= length:
            due_s = start_s + end / SAMPLE_RATE_HZ
            lateness_ms = self._wait_until(due_s)
            if self._recorder.is_over(due_s):
                break
            answers.append(self._send(stream, due_s, lateness_ms))
            begin, end = end, end + info.chunk_samples
        over = end <= length
        if over and not answers:
            return
        if over:
            length = begin
        due_s = start_s + length / SAMPLE_RATE_HZ
        if not over:
            self._wait_until(due_s)
        chunks = len(answers)
        answers.append(stream.end(begin, length))
        self._answered_s = answers[-1].received_s
        if not over:
            self._recorder.record_final(due_s, 1000 * (self._answered_s - due_s))
        complete = length == len(self._service.scripts[script]) and not over
        self._recorder.record_stream(_finished(script, answers, chunks, complete))

    def _wait_until(self, due_s: float) -> float:
        """Wait until `due_s`; return the lateness in ms, or NaN if the server is the cause."""
        in_time = self._answered_s <= due_s
        self._service.clock.wait_until(due_s)
        return 1000 * (time.monotonic() - due_s) if in_time else math.nan

    def _send(self, stream: LiveStream, due_s: float, lateness_ms: float) -> Answer:
        try:
            if time.monotonic() - due_s > FELL_BEHIND_S:
                raise FellBehind(f"the text is {FELL_BEHIND_S:.0f} s behind real time")
            answer = stream.send()
        except ServerBusy:  # refused: no chunk of a stream that has not begun is waiting
            raise
        except (EarshotError, FellBehind):
            waited_ms = 1000 * (time.monotonic() - due_s)
            self._recorder.record_unanswered(self._number, due_s, max(waited_ms, UNANSWERED_MS))
            raise
        except gevent.GreenletExit:  # stopped while waiting: the latency is at least this long
            self._record(due_s, time.monotonic(), lateness_ms)
            raise
        self._answered_s = answer.received_s
        self._record(due_s, self._answered_s, lateness_ms)
        return answer

    def _record(self, due_s: float, received_s: float, lateness_ms: float) -> None:
        latency_ms = 1000 * (received_s - due_s)
        self._recorder.record_chunk(self._number, due_s, latency_ms, lateness_ms)


def _finished(script: int, answers: list[Answer], chunks: int, complete: bool) -> FinishedStream:
    compared = answers if complete else answers[:chunks]
    return FinishedStream(
        script,
        chunks,
        complete,
        tuple(token for answer in compared for token in answer.tokens),
        "".join(answer.text for answer in compared),
    )
