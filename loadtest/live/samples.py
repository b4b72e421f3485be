"""Raw samples of a level: taken where the speakers are, gathered where the level is judged.

Locust keeps response times in rounded bins; here every chunk is kept as it was measured. A process
of speakers has one `Recorder`; a few times a second it sends what it has taken to the `Gathering`
of the process that holds the level, which may be on another machine. Clocks are not compared: each
process counts from the moment it was told to begin.
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
"""The metronome: tells whether this process was held up, whatever the server did."""
Batch = dict[str, Any]
"""What one process has taken since its last batch; plain values and bytes, for the wire."""

_CHUNK_FIELDS = 4  # speaker, due (s from the begin), latency (ms), lateness (ms, NaN: none)


@dataclass(frozen=True)
class Spoken:
    """The text of one stream that has ended."""

    script: int
    chunks: int
    """Full chunks it was made of; the rest, if any, was shorter."""
    complete: bool
    """The whole script was spoken; else ``tokens`` and ``text`` are those of the full chunks."""
    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Window:
    """What to record: from ``warm_up_s`` after the order, for ``hold_s``."""

    level: int
    warm_up_s: float
    hold_s: float
    """May be infinite: until the speakers are stopped."""


@dataclass
class Samples:
    """Everything that was taken within the window of one level."""

    speaker: NDArray[np.int64]  # (N,), unique over all processes
    due_s: NDArray[np.float64]  # (N,), from the begin of the window
    latency_ms: NDArray[np.float64]  # (N,)
    lateness_ms: NDArray[np.float64]  # (N,), NaN where the chunk had to wait for the server
    tick_lateness_ms: NDArray[np.float64]  # (M,)
    final_ms: NDArray[np.float64]  # (K,)
    spoken: list[Spoken]
    failures: Counter[str]
    messages: dict[str, str]
    """One message for each kind of failure."""
    cpu_s: list[float]
    """Of each process that speaks, over the window."""
    missing: list[str] = field(default_factory=list)
    """Processes that have not reported to the end."""


@dataclass(frozen=True)
class Recent:
    """The last moment, for those who watch."""

    streams: int
    latency_ms: NDArray[np.float32]
    lateness_ms: NDArray[np.float32]


class Recorder:
    """Takes the samples of the speakers of one process."""

    def __init__(self) -> None:
        self._begun = gevent.event.Event()
        self.speaking = 0
        self._level = -1
        self._begin_s = self._end_s = math.inf
        self._cpu_begin_s: float | None = None
        self._cpu_end_s: float | None = None
        self._clear()

    def begin(self, window: Window) -> None:
        """Start over: forget what was taken, and let the speakers speak."""
        self._clear()
        self._level = window.level
        self._begin_s = time.monotonic() + window.warm_up_s
        self._end_s = self._begin_s + window.hold_s
        self._cpu_begin_s = self._cpu_end_s = None
        self._begun.set()

    def stop(self) -> None:
        """The window ends now, if it has not yet."""
        self._end_s = min(self._end_s, time.monotonic())

    def wait_for_turn(self) -> bool:
        """Wait until speakers may speak; returns whether there was a wait."""
        waited = False
        while not self._begun.is_set() or self.is_over(time.monotonic()):
            waited = True
            self._begun.wait()
            if self.is_over(time.monotonic()):
                gevent.sleep(0.1)
        return waited

    def is_over(self, due_s: float) -> bool:
        """Whether something due at ``due_s`` (monotonic) is behind the window."""
        return due_s >= self._end_s

    def chunk(self, speaker: int, due_s: float, latency_ms: float, lateness_ms: float) -> None:
        """A chunk was answered ``latency_ms`` after it was due; sent ``lateness_ms`` late."""
        if self._begin_s <= due_s < self._end_s:
            self._chunks.extend((speaker, due_s - self._begin_s, latency_ms, lateness_ms))

    def final(self, due_s: float, latency_ms: float) -> None:
        """A speaker ended at ``due_s``; the text was whole ``latency_ms`` later."""
        if self._begin_s <= due_s < self._end_s:
            self._finals.append(latency_ms)

    def spoken(self, spoken: Spoken) -> None:
        """A stream has ended."""
        self._spoken.append((spoken.script, spoken.chunks, spoken.complete, spoken.text))
        self._tokens.append(array("i", spoken.tokens).tobytes())

    def failure(self, kind: str, message: str) -> None:
        """A stream has failed, in the warm-up too: a stream that is refused is not carried."""
        self._failures[kind] += 1
        self._messages[kind] = message

    def tick_forever(self) -> None:
        """The metronome; run it in a greenlet of its own."""
        tick_s = time.monotonic()
        while True:
            tick_s += TICK_S
            while (wait_s := tick_s - time.monotonic()) > 0:
                gevent.sleep(wait_s)
            if self._begin_s <= tick_s < self._end_s:
                self._ticks.append(1000 * (time.monotonic() - tick_s))
            self._note_cpu(tick_s)

    def report_forever(self, send: Callable[[Batch], None], every_s: float = 0.25) -> None:
        """Send what was taken, and at last that it was all; run it in a greenlet of its own."""
        while True:
            gevent.sleep(every_s)
            if not self._begun.is_set():
                continue
            done = self.is_over(time.monotonic()) and not self.speaking
            if done:
                self._begun.clear()
            send(self.take(done))

    def take(self, done: bool) -> Batch:
        """Everything since the last call."""
        batch: Batch = {
            "level": self._level,
            "done": done,
            "chunks": self._chunks.tobytes(),
            "ticks": self._ticks.tobytes(),
            "finals": self._finals.tobytes(),
            "spoken": self._spoken,
            "tokens": self._tokens,
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
        self._spoken: list[tuple[int, int, bool, str]] = []
        self._tokens: list[bytes] = []
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


class Gathering:
    """Puts the batches of all processes of a level together."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._batches: dict[str, list[Batch]] = {}
        self._recent: list[tuple[str, NDArray[np.float32]]] = []

    def add(self, process: str, batch: Batch) -> None:
        """Take a batch; one of another level is too late and dropped."""
        if batch["level"] != self._level:
            return
        self._batches.setdefault(process, []).append(batch)
        self._recent.append((process, _rows(batch)))

    def take_recent(self) -> Recent:
        """What has come in since the last call."""
        recent, self._recent = self._recent, []
        rows = np.concatenate([np.zeros((0, _CHUNK_FIELDS), np.float32), *(r for _, r in recent)])
        lateness_ms = rows[:, 3]
        return Recent(
            streams=len({(process, who) for process, part in recent for who in part[:, 0]}),
            latency_ms=rows[:, 2],
            lateness_ms=lateness_ms[~np.isnan(lateness_ms)],
        )

    def unfinished(self, processes: list[str]) -> list[str]:
        """Those of ``processes`` that have not said that they are done."""
        return [name for name in processes if not self._is_done(name)]

    def failures(self) -> int:
        """Streams that have failed so far."""
        return sum(sum(batch["failures"].values()) for batch in self._all())

    def samples(self, processes: list[str]) -> Samples:
        """All that has come from ``processes``."""
        chunks = [np.zeros((0, _CHUNK_FIELDS + 1))]
        for number, batches in enumerate(self._batches.values()):
            rows = np.concatenate([_rows(batch) for batch in batches]).astype(np.float64)
            chunks.append(np.column_stack((np.full(len(rows), number), rows)))
        table = np.concatenate(chunks)
        return Samples(
            speaker=(table[:, 0] * 2**32 + table[:, 1]).astype(np.int64),
            due_s=table[:, 2],
            latency_ms=table[:, 3],
            lateness_ms=table[:, 4],
            tick_lateness_ms=self._floats("ticks"),
            final_ms=self._floats("finals"),
            spoken=[spoken for batch in self._all() for spoken in _spoken(batch)],
            failures=sum((Counter[str](b["failures"]) for b in self._all()), Counter[str]()),
            messages={k: v for batch in self._all() for k, v in batch["messages"].items()},
            cpu_s=[sum(b["cpu_s"] for b in batches) for batches in self._batches.values()],
            missing=self.unfinished(processes),
        )

    def _all(self) -> list[Batch]:
        return [batch for batches in self._batches.values() for batch in batches]

    def _is_done(self, process: str) -> bool:
        return any(batch["done"] for batch in self._batches.get(process, ()))

    def _floats(self, name: str) -> NDArray[np.float64]:
        parts = [np.frombuffer(batch[name], np.float32) for batch in self._all()]
        return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float64)


def _rows(batch: Batch) -> NDArray[np.float32]:
    return np.frombuffer(batch["chunks"], np.float32).reshape(-1, _CHUNK_FIELDS)


def _spoken(batch: Batch) -> list[Spoken]:
    return [
        Spoken(script, chunks, complete, tuple(np.frombuffer(tokens, np.int32).tolist()), text)
        for (script, chunks, complete, text), tokens in zip(
            batch["spoken"], batch["tokens"], strict=True
        )
    ]
