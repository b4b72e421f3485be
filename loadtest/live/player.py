"""A live speaker: real speech in real time, on an absolute clock, whatever the server does.

Open loop: chunk k of a stream is due at ``start + (k + 1) * chunk``, whether or not the answer to
chunk k - 1 has come. A chunk that has to wait for that answer is sent late, and the waiting counts
as its latency. When a script is over the next stream begins where the last audio ended, with a
fresh id: ``n`` speakers are ``n`` live streams at every moment, and streams end and begin all the
time. The first stream of a speaker is cut short at a random place, so that the ends are spread.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from typing import Protocol

import gevent
from earshot import ChunkResult, Client, EarshotError, Stream

from loadtest.samples import Recorder, Spoken
from loadtest.speech import SAMPLE_RATE_HZ, Script

FELL_BEHIND_S = 10.0
"""A stream so far behind its speaker is of no use to anyone and is given up."""
PAUSE_AFTER_FAILURE_S = 1.0


class Watcher(Protocol):
    """Is told of every sample as it comes, for the charts."""

    def chunk(self, latency_ms: float, lateness_ms: float) -> None:
        """A chunk's text has come; ``lateness_ms`` is NaN where the server made it late."""
        ...

    def final(self, latency_ms: float) -> None:
        """A stream's last text has come."""
        ...

    def failure(self, error: Exception) -> None:
        """A stream has failed."""
        ...


class FellBehind(EarshotError):
    """The server answers more slowly than the speaker speaks."""


class Speaker:
    """Speaks stream after stream."""

    def __init__(
        self,
        number: int,
        client: Client,
        scripts: Sequence[Script],
        recorder: Recorder,
        watcher: Watcher,
    ) -> None:
        self._number = number
        self._client = client
        self._scripts = scripts
        self._recorder = recorder
        self._watcher = watcher
        self._start_s: float | None = None
        self._answered_s = 0.0

    def speak(self) -> None:
        """Speak one stream, to its end or to that of the measurement."""
        script = random.randrange(len(self._scripts))
        length = len(self._scripts[script].samples)
        if self._start_s is None:
            chunk_s = self._client.info.chunk_ms / 1000
            self._start_s = time.monotonic() + random.uniform(0, max(1.0, chunk_s))
            length = random.randint(self._client.info.chunk_samples, length)
        self._recorder.speaking += 1
        try:
            with self._client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                self._speak(stream, script, length, self._start_s)
            self._start_s += length / SAMPLE_RATE_HZ
        except EarshotError as error:
            self._recorder.failure(type(error).__name__, str(error))
            self._watcher.failure(error)
            self.rest()
            gevent.sleep(PAUSE_AFTER_FAILURE_S)
        finally:
            self._recorder.speaking -= 1

    def rest(self) -> None:
        """The next stream begins at a random phase, not where the last one ended."""
        self._start_s = None

    def _speak(self, stream: Stream, script: int, length: int, start_s: float) -> None:
        info, samples = self._client.info, self._scripts[script].samples
        text: list[ChunkResult] = []
        begin, end = 0, info.chunk_samples - info.lead_samples
        while end <= length:
            due_s = start_s + end / SAMPLE_RATE_HZ
            lateness_ms = self._wait_until(due_s)
            if self._recorder.is_over(due_s):
                break
            text += self._send(stream, samples[begin:end], due_s, lateness_ms)
            begin, end = end, end + info.chunk_samples
        over = end <= length
        if over and not text:
            return
        due_s = start_s + (begin if over else length) / SAMPLE_RATE_HZ
        if not over:
            self._wait_until(due_s)
            stream.send(samples[begin:length])
        chunks = len(text)
        text += stream.end()
        self._answered_s = time.monotonic()
        if not over:
            latency_ms = 1000 * (self._answered_s - due_s)
            self._recorder.final(due_s, latency_ms)
            self._watcher.final(latency_ms)
        complete = length == len(samples) and not over
        self._recorder.spoken(_spoken(script, text, chunks, complete))

    def _wait_until(self, due_s: float) -> float:
        """Sleep; returns how late it is then in ms, NaN if that is because of the server."""
        in_time = self._answered_s <= due_s
        while (wait_s := due_s - time.monotonic()) > 0:
            gevent.sleep(wait_s)
        return 1000 * (time.monotonic() - due_s) if in_time else math.nan

    def _send(
        self, stream: Stream, piece: object, due_s: float, lateness_ms: float
    ) -> list[ChunkResult]:
        if time.monotonic() - due_s > FELL_BEHIND_S:
            raise FellBehind(f"the text is {FELL_BEHIND_S:.0f} s behind the speaker")
        try:
            results = stream.send(piece)  # pyright: ignore
        except gevent.GreenletExit:  # stopped while waiting: at least so long
            self._record(due_s, time.monotonic(), lateness_ms)
            raise
        self._answered_s = results[-1].received_s
        self._record(due_s, self._answered_s, lateness_ms)
        return results

    def _record(self, due_s: float, received_s: float, lateness_ms: float) -> None:
        latency_ms = 1000 * (received_s - due_s)
        self._recorder.chunk(self._number, due_s, latency_ms, lateness_ms)
        self._watcher.chunk(latency_ms, lateness_ms)


def _spoken(script: int, results: list[ChunkResult], chunks: int, complete: bool) -> Spoken:
    shown = results if complete else results[:chunks]
    return Spoken(
        script,
        chunks,
        complete,
        tuple(token.id for result in shown for token in result.tokens),
        "".join(result.text for result in shown),
    )
