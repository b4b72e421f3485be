"""Record raw samples of a level in the workers, and collect them in the process that holds it.

Locust keeps response times in rounded bins; here every chunk is kept as measured. A worker has one
`SampleRecorder`; a few times a second it sends its samples to the `SampleCollector` of the process
that holds the level, which may be on another machine. Clocks are not compared: each process counts
from the moment at which it receives the order to start.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
import gevent.event
import numpy as np
from numpy.typing import NDArray

TICK_S = 0.02
"""Period of the ticks, which show delays of this process independently of the server."""
FELL_BEHIND_S = 10.0
"""A stream this far behind real time is useless and is given up."""
SampleBatch = dict[str, Any]
"""Samples of one process since its last batch: plain values and bytes, ready to be sent."""

_CHUNK_FIELDS = 4  # user, due (s from the begin), latency (ms), lateness (ms, NaN: none)


@dataclass(frozen=True)
class FinishedStream:
    """Output for one stream that has ended."""

    script: int
    chunks: int
    """Number of full chunks that were sent; the rest, if any, was shorter."""
    complete: bool
    """`True` if the whole script was sent; else `tokens` and `text` belong to the full chunks."""
    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Window:
    """Time to record: from `warm_up_s` after the order to start, for `hold_s`."""

    level: int
    warm_up_s: float
    hold_s: float
    """Length of the window; infinite to record until the order to stop."""


@dataclass
class LevelSamples:
    """All samples within the window of one level."""

    user: NDArray[np.int64]  # (N,), unique over all processes
    due_s: NDArray[np.float64]  # (N,), from the start of the window
    latency_ms: NDArray[np.float64]  # (N,)
    lateness_ms: NDArray[np.float64]  # (N,), NaN where the chunk had to wait for the server
    tick_lateness_ms: NDArray[np.float64]  # (M,)
    final_ms: NDArray[np.float64]  # (K,)
    finished: list[FinishedStream]
    failures: Counter[str]
    messages: dict[str, str]
    """One message for each kind of failure."""
    cpu_s: list[float]
    """CPU time of each worker over the window."""
    unanswered: int = 0
    """Chunks that were never answered; `latency_ms` contains the time that they waited."""
    missing: list[str] = field(default_factory=list)
    """Workers that have not reported to the end."""


@dataclass(frozen=True)
class RecentSamples:
    """Samples since the previous ones, for live displays."""

    streams: int
    latency_ms: NDArray[np.float32]
    lateness_ms: NDArray[np.float32]


class SampleRecorder:
    """Records the samples of the live users of one process."""

    def __init__(self) -> None:
        self._started = gevent.event.Event()
        self.active_streams = 0
        self._level = -1
        self._begin_s = self._end_s = math.inf
        self._cpu_begin_s: float | None = None
        self._cpu_end_s: float | None = None
        self._clear()

    def start(self, window: Window) -> None:
        """Start a window: discard earlier samples, and let the live users stream."""
        self._clear()
        self._level = window.level
        self._begin_s = time.monotonic() + window.warm_up_s
        self._end_s = self._begin_s + window.hold_s
        self._cpu_begin_s = self._cpu_end_s = None
        self._started.set()

    def stop(self) -> None:
        """End the window now, if it has not ended yet."""
        self._end_s = min(self._end_s, time.monotonic())

    def wait_for_start(self) -> bool:
        """Wait until streams may run; return `True` if there was a wait."""
        waited = False
        while not self._started.is_set() or self.is_over(time.monotonic()):
            waited = True
            self._started.wait()
            if self.is_over(time.monotonic()):
                gevent.sleep(0.1)
        return waited

    def is_over(self, due_s: float) -> bool:
        """Return `True` if `due_s` (monotonic) is after the window."""
        return due_s >= self._end_s

    def record_chunk(self, user: int, due_s: float, latency_ms: float, lateness_ms: float) -> None:
        """Record a chunk: sent `lateness_ms` late, answered `latency_ms` after `due_s`."""
        if self._begin_s <= due_s < self._end_s:
            self._chunks.extend((user, due_s - self._begin_s, latency_ms, lateness_ms))

    def record_unanswered(self, user: int, due_s: float, waited_ms: float) -> None:
        """Record a chunk that was due at `due_s` and will never be answered."""
        self.record_chunk(user, due_s, waited_ms, math.nan)
        self._unanswered += self._begin_s <= due_s < self._end_s

    def record_final(self, due_s: float, latency_ms: float) -> None:
        """Record a final text that came `latency_ms` after the stream's end at `due_s`."""
        if self._begin_s <= due_s < self._end_s:
            self._finals.append(latency_ms)

    def record_stream(self, stream: FinishedStream) -> None:
        """Record the output for a stream that has ended."""
        self._finished.append((stream.script, stream.chunks, stream.complete, stream.text))
        self._tokens.append(array("i", stream.tokens).tobytes())

    def record_failure(self, kind: str, message: str) -> None:
        """Record a failed stream, even during the warm-up: a refused stream is not sustained."""
        self._failures[kind] += 1
        self._messages[kind] = message

    def tick_forever(self) -> None:
        """Record ticks; run this in a greenlet of its own."""
        tick_s = time.monotonic()
        while True:
            tick_s += TICK_S
            while (wait_s := tick_s - time.monotonic()) > 0:
                gevent.sleep(wait_s)
            if self._begin_s <= tick_s < self._end_s:
                self._ticks.append(1000 * (time.monotonic() - tick_s))
            self._note_cpu(tick_s)

    def report_forever(self, send: Callable[[SampleBatch], None], every_s: float = 0.25) -> None:
        """Send batches, the last one marked as done; run this in a greenlet of its own."""
        while True:
            gevent.sleep(every_s)
            if not self._started.is_set():
                continue
            done = self.is_over(time.monotonic()) and not self.active_streams
            if done:
                self._started.clear()
            send(self.take_batch(done))

    def take_batch(self, done: bool) -> SampleBatch:
        """Return and clear the samples since the last call."""
        batch: SampleBatch = {
            "level": self._level,
            "done": done,
            "chunks": self._chunks.tobytes(),
            "ticks": self._ticks.tobytes(),
            "finals": self._finals.tobytes(),
            "finished": self._finished,
            "tokens": self._tokens,
            "unanswered": self._unanswered,
            "failures": dict(self._failures),
            "messages": self._messages,
            "cpu_s": self._cpu_s() if done else 0.0,
        }
        self._clear()
        return batch

    def _clear(self) -> None:
        self._chunks = array("f")
        self._ticks = array("f")
        self._finals = array("f")
        self._finished: list[tuple[int, int, bool, str]] = []
        self._tokens: list[bytes] = []
        self._unanswered = 0
        self._failures: Counter[str] = Counter()
        self._messages: dict[str, str] = {}

    def _note_cpu(self, now_s: float) -> None:
        if self._cpu_begin_s is None and now_s >= self._begin_s:
            self._cpu_begin_s = time.process_time()
        if self._cpu_end_s is None and now_s >= self._end_s:
            self._cpu_end_s = time.process_time()

    def _cpu_s(self) -> float:
        if self._cpu_begin_s is None:
            return 0.0
        end_s = time.process_time() if self._cpu_end_s is None else self._cpu_end_s
        return end_s - self._cpu_begin_s


class SampleCollector:
    """Joins the batches of all workers for one level."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._batches: dict[str, list[SampleBatch]] = {}
        self._recent: list[tuple[str, NDArray[np.float32]]] = []

    def add(self, worker: str, batch: SampleBatch) -> None:
        """Add a batch of `worker`; a late batch of another level is dropped."""
        if batch["level"] != self._level:
            return
        self._batches.setdefault(worker, []).append(batch)
        self._recent.append((worker, chunk_rows(batch)))

    def take_recent(self) -> RecentSamples:
        """Return the samples received since the last call."""
        recent, self._recent = self._recent, []
        rows = np.concatenate([np.zeros((0, _CHUNK_FIELDS), np.float32), *(r for _, r in recent)])
        lateness_ms = rows[:, 3]
        return RecentSamples(
            streams=len({(worker, user) for worker, part in recent for user in part[:, 0]}),
            latency_ms=rows[:, 2],
            lateness_ms=lateness_ms[~np.isnan(lateness_ms)],
        )

    def unfinished(self, workers: list[str]) -> list[str]:
        """Return the workers that have not reported that they are done."""
        return [name for name in workers if not self._is_done(name)]

    def failed_streams(self) -> int:
        """Return the number of streams that have failed so far."""
        return sum(sum(batch["failures"].values()) for batch in self._all())

    def samples(self, workers: list[str]) -> LevelSamples:
        """Return all samples; workers that are not done are listed as missing."""
        chunks = [np.zeros((0, _CHUNK_FIELDS + 1))]
        for number, batches in enumerate(self._batches.values()):
            rows = np.concatenate([chunk_rows(batch) for batch in batches]).astype(np.float64)
            chunks.append(np.column_stack((np.full(len(rows), number), rows)))
        table = np.concatenate(chunks)
        return LevelSamples(
            user=(table[:, 0] * 2**32 + table[:, 1]).astype(np.int64),
            due_s=table[:, 2],
            latency_ms=table[:, 3],
            lateness_ms=table[:, 4],
            tick_lateness_ms=self._floats("ticks"),
            final_ms=self._floats("finals"),
            finished=[stream for batch in self._all() for stream in _finished(batch)],
            failures=sum((Counter[str](b["failures"]) for b in self._all()), Counter[str]()),
            messages={k: v for batch in self._all() for k, v in batch["messages"].items()},
            cpu_s=[sum(b["cpu_s"] for b in batches) for batches in self._batches.values()],
            unanswered=sum(batch["unanswered"] for batch in self._all()),
            missing=self.unfinished(workers),
        )

    def _all(self) -> list[SampleBatch]:
        return [batch for batches in self._batches.values() for batch in batches]

    def _is_done(self, worker: str) -> bool:
        return any(batch["done"] for batch in self._batches.get(worker, ()))

    def _floats(self, name: str) -> NDArray[np.float64]:
        parts = [np.frombuffer(batch[name], np.float32) for batch in self._all()]
        return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float64)


def chunk_rows(batch: SampleBatch) -> NDArray[np.float32]:
    """Return the chunks of a batch: float32 [N, 4], columns as in `_CHUNK_FIELDS`."""
    return np.frombuffer(batch["chunks"], np.float32).reshape(-1, _CHUNK_FIELDS)


def _finished(batch: SampleBatch) -> list[FinishedStream]:
    return [
        FinishedStream(
            script, chunks, complete, tuple(np.frombuffer(tokens, np.int32).tolist()), text
        )
        for (script, chunks, complete, text), tokens in zip(
            batch["finished"], batch["tokens"], strict=True
        )
    ]
