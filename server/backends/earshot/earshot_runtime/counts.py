"""Count what happens to the streams of a stage, for its metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from .checks import Errors
from .chunks import Chunks
from .errors import ChunkError, NotFinite, RunFailed, Saturated, ServerFull
from .metrics import Sample

_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.56, 1.12, 2.24)
"""Around the lengths of chunks, 80 to 1120 ms: a batch that takes longer than one is late."""
_REASONS: dict[type[ChunkError], str] = {ServerFull: "full", Saturated: "saturated"}


class Counts:
    """Counts the streams and batches of one process."""

    def __init__(self) -> None:
        self._events: Counter[Sample] = Counter()
        self._busy_s = 0.0
        self._batches = [0] * (len(_BUCKETS_S) + 1)

    def batch(self, chunks: Chunks, errors: Errors, took_s: float) -> None:
        """Count a batch that has run, and the chunks of it that have failed."""
        self._busy_s += took_s
        self._batches[bisect_left(_BUCKETS_S, took_s)] += 1
        refused = sum(chunks.starts[row] for row in errors)
        self._events["earshot_started_streams_total", ()] += sum(chunks.starts) - refused
        for row, error in errors.items():
            if isinstance(error, (NotFinite, RunFailed)):
                self._events["earshot_failed_chunks_total", ()] += 1
            elif chunks.starts[row]:
                reason = ("reason", _REASONS.get(type(error), "invalid"))
                self._events["earshot_refused_streams_total", (reason,)] += 1
            else:
                self._events["earshot_refused_chunks_total", ()] += 1

    def values(self) -> dict[Sample, float]:
        """Return all counts so far."""
        values: dict[Sample, float] = {
            ("earshot_started_streams_total", ()): 0,
            **{
                ("earshot_refused_streams_total", (("reason", reason),)): 0
                for reason in (*_REASONS.values(), "invalid")
            },
            ("earshot_refused_chunks_total", ()): 0,
            ("earshot_failed_chunks_total", ()): 0,
            **self._events,
            ("earshot_busy_seconds_total", ()): self._busy_s,
        }
        total = 0
        for bound, batches in zip((*_BUCKETS_S, "+Inf"), self._batches, strict=True):
            total += batches
            values["earshot_batch_seconds_bucket", (("le", str(bound)),)] = total
        return values
