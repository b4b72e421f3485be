"""Count what happens to the streams of a stage, for its metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from .checks import Errors
from .chunks import Chunks
from .errors import AdaptersFull, ChunkError, NotFinite, RunFailed, Saturated, ServerFull

Sample = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a metric, and its labels in addition to those of its process."""
Values = Mapping[Sample, float]

LIVE_STREAMS: Sample = ("earshot_live_streams", ())
ADAPTER_STREAMS = "earshot_adapter_streams"
STARTED: Sample = ("earshot_started_streams_total", ())
REFUSED_CHUNKS: Sample = ("earshot_refused_chunks_total", ())
FAILED_CHUNKS: Sample = ("earshot_failed_chunks_total", ())
BATCH_SECONDS = "earshot_batch_seconds"
_INVALID = "invalid"
_REASONS: dict[type[ChunkError], str] = {
    ServerFull: "full",
    AdaptersFull: "adapters",
    Saturated: "saturated",
}
_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.56, 1.12, 2.24)
"""Bounds around the lengths of chunks, 80 to 1120 ms: a batch that takes longer is late."""


class BatchTimes:
    """Counts the batches of one process by duration."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._batches = [0] * (len(_BUCKETS_S) + 1)

    def add(self, took_s: float) -> None:
        """Count a batch that has run."""
        self._busy_s += took_s
        self._batches[bisect_left(_BUCKETS_S, took_s)] += 1

    def values(self) -> dict[Sample, float]:
        """Return the histogram so far; any thread may call this."""
        values: dict[Sample, float] = {(f"{BATCH_SECONDS}_sum", ()): self._busy_s}
        total = 0
        for bound, batches in zip((*_BUCKETS_S, "+Inf"), self._batches, strict=True):
            total += batches
            values[f"{BATCH_SECONDS}_bucket", (("le", str(bound)),)] = total
        return values


class Counts:
    """Counts the streams and batches of one process.

    Every metric exists from the start, so that another thread can read while this one counts.
    """

    def __init__(self) -> None:
        self._events = dict.fromkeys(
            [
                STARTED,
                *(_refused(reason) for reason in (*_REASONS.values(), _INVALID)),
                REFUSED_CHUNKS,
                FAILED_CHUNKS,
            ],
            0,
        )
        self._times = BatchTimes()

    def batch(self, chunks: Chunks, errors: Errors, took_s: float) -> None:
        """Count a batch that has run, and its failed chunks.

        A canary counts only if the stage fails on it, because it is not a client's stream.
        """
        self._times.add(took_s)
        starts = [
            start and not canary
            for start, canary in zip(chunks.starts, chunks.canaries, strict=True)
        ]
        self._events[STARTED] += sum(starts) - sum(starts[row] for row in errors)
        for row, error in errors.items():
            if isinstance(error, (NotFinite, RunFailed)):
                self._events[FAILED_CHUNKS] += 1
            elif chunks.canaries[row]:
                continue
            elif starts[row]:
                self._events[_refused(_REASONS.get(type(error), _INVALID))] += 1
            else:
                self._events[REFUSED_CHUNKS] += 1

    def values(self) -> dict[Sample, float]:
        """Return all counts so far."""
        return {**self._events, **self._times.values()}


def _refused(reason: str) -> Sample:
    return ("earshot_refused_streams_total", (("reason", reason),))
