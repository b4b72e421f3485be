"""Limit the open streams by the latency of their chunks, so that all of them stay in real time.

Slots limit the streams to what fits into memory, not to what the cores can serve. That shows in the
latency of a chunk, from its arrival to its text, which Triton sums up for every stage. As in a
queue, the latency is `idle / (1 - busy)`: `idle` is the latency on an idle server, and `busy` the
utilization of the cores. So the two latencies yield the utilization, and together with the load the
number of streams at which it would reach its limit. TCP Vegas and the concurrency limits of some
request servers work in the same way.
"""

from __future__ import annotations

import math
import re
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .backends.earshot.earshot_runtime.limit import clear_limit, write_limit
from .errors import BadRepository
from .heartbeats import live_streams
from .repository import TENSORRT, Ensemble, Repository

DEFAULT_SHARE = 0.15
LEAST_SHARE = 0.05
INTERVAL_S = 0.5
_LEAST_WINDOW_S = 1.0
_LEAST_BUSY = 0.05
"""Below this utilization, the two latencies are too close to each other to compare."""
_LEAST_IDLE_TIMES = 2.0
"""A chunk may always take this many times as long as on the idle server, whatever the share: else a
model with short chunks, or a slow machine, would accept no stream at all."""
_GROWTH = 1.5
"""Largest growth per window: streams that have just begun do not show in the latencies yet."""
_TIMEOUT_S = 5.0
_SAMPLE = re.compile(
    r"^nv_inference_(request_duration_us|request_success|pending_request_count)"
    r'{[^}]*model="([^"]+)"[^}]*} (\S+)$',
    re.MULTILINE,
)

Observe = Callable[[str, int], None]
"""Called with an ensemble and the number of streams that it may hold from now on."""


def chosen_share(requested: float | None, models: Repository) -> float | None:
    """Return the latency that a chunk may have, as a share of its length; None for no limit.

    Args:
        requested: 0 for no limit, None for the default of the models.

    Raises:
        BadRepository: the runtime of the models does not support a limit.
    """
    if models.runtime != TENSORRT:
        return DEFAULT_SHARE if requested is None else requested or None
    if requested:
        raise BadRepository(
            f"--chunk-share limits streams at the first stage of this project's backend, and "
            f"{models.path} holds engines that run in Triton's TensorRT backend: leave it out, and "
            "export with as many --max-streams as the GPU carries"
        )
    return None


@dataclass(frozen=True)
class Reading:
    """Sums since the server's start over all chunks of a first stage, and its state now."""

    at_s: float
    total_s: float
    """Sum of the latencies of the chunks."""
    chunks: int
    live: int
    """Open streams, including those that send nothing."""
    waiting: int
    """Chunks that wait at any stage."""


@dataclass
class StreamLimit:
    """The number of streams that a first stage may hold."""

    chunk_s: float
    chunk_share: float
    idle_s: float = math.inf
    """The lowest mean latency of a chunk so far."""
    _readings: deque[Reading] = field(default_factory=deque[Reading])

    def update(self, now: Reading) -> int | None:
        """Return the limit, or None to keep it while there are too few observations."""
        if self._readings and now.chunks < self._readings[-1].chunks:
            self._readings.clear()  # the model was loaded again
        self._readings.append(now)
        window_s = max(_LEAST_WINDOW_S, 2 * self.chunk_s)
        while len(self._readings) > 2 and now.at_s - self._readings[1].at_s >= window_s:
            self._readings.popleft()
        before = self._readings[0]
        # Streams that have begun since then do not show in the latencies yet.
        live = min(before.live, now.live)
        chunks = now.chunks - before.chunks
        if not chunks and now.waiting:
            return 0 if now.at_s - before.at_s >= window_s else None
        if not chunks:
            return self._idle_limit(live)
        mean_s = (now.total_s - before.total_s) / chunks
        self.idle_s = min(self.idle_s, mean_s)
        # Every stream has one chunk per `chunk_s`, so the share of streams with a waiting chunk
        # shows the latency that these chunks will have.
        mean_s = max(mean_s, self.chunk_s * now.waiting / max(1, now.live))
        load = chunks * self.chunk_s / (now.at_s - before.at_s)
        return max(1, live + self._more(load, mean_s))

    def _idle_limit(self, live: int) -> int | None:
        return None if math.isinf(self.idle_s) else live + self._one_by_one()

    def _more(self, load: float, mean_s: float) -> int:
        """Return how many streams fit in addition to `load`; below 0 if `load` is too much."""
        busy = max(_LEAST_BUSY, 1 - self.idle_s / mean_s)
        most_s = max(self.chunk_share * self.chunk_s, _LEAST_IDLE_TIMES * self.idle_s)
        allowed = 1 - self.idle_s / most_s
        more = math.floor(load * (allowed / busy - 1))
        return min(more, math.floor((_GROWTH - 1) * load) + self._one_by_one())

    def _one_by_one(self) -> int:
        """Return how many streams an idle server can serve without any batching."""
        return max(1, math.floor(self.chunk_s / self.idle_s))


class Admission:
    """Sets the limits of the first stages of a server's streaming ensembles."""

    def __init__(
        self,
        metrics_url: str,
        folder: Path,
        chunk_share: float,
        observe: Observe = lambda model, streams: None,
    ) -> None:
        """Limit the mean latency of a chunk to `chunk_share` of its length.

        Args:
            folder: where the stages look for the limit.
        """
        self._metrics_url = metrics_url
        self._folder = folder
        self._chunk_share = chunk_share
        self._observe = observe
        self._sharing: dict[str, list[Ensemble]] = {}
        """Ensembles by their first stage: a recognizer with heads shares its first stage with its
        base."""
        self._limits: dict[str, StreamLimit] = {}

    def serve(self, ensembles: Sequence[Ensemble]) -> None:
        """Limit the streams of these ensembles from now on, and of no others."""
        self._sharing = {}
        for ensemble in ensembles:
            if ensemble.chunk_ms:
                self._sharing.setdefault(next(iter(ensemble.stages)), []).append(ensemble)
        for stage in self._limits.keys() - self._sharing.keys():
            del self._limits[stage]
            clear_limit(self._folder, stage)
        for stage, (ensemble, *_) in self._sharing.items():
            if stage not in self._limits:
                self._limits[stage] = StreamLimit(ensemble.chunk_ms / 1000, self._chunk_share)

    def measure(self) -> None:
        """Read the metrics and update the limits."""
        try:
            with urllib.request.urlopen(self._metrics_url, timeout=_TIMEOUT_S) as response:
                self.decide(response.read().decode(), time.monotonic())
        except OSError:  # no answer in time: keep the limits
            return

    def decide(self, metrics: str, at_s: float) -> None:
        """Update the limits from the text of Triton's metrics at `at_s`."""
        values: defaultdict[tuple[str, str], float] = defaultdict(float)
        for kind, model, value in _SAMPLE.findall(metrics):
            values[model, kind] += float(value)  # a model on GPUs has a value for each
        live = live_streams(self._folder)
        for first, sharing in self._sharing.items():
            stages = {stage for ensemble in sharing for stage in ensemble.stages}
            now = Reading(
                at_s,
                # Sums over stages, not ensembles, because adapters have ensembles of their own.
                sum(values[stage, "request_duration_us"] for stage in stages) / 1e6,
                round(values[first, "request_success"]),
                live[first],
                round(sum(values[stage, "pending_request_count"] for stage in stages)),
            )
            streams = self._limits[first].update(now)
            if streams is not None:
                write_limit(self._folder, first, math.ceil(streams / sharing[0].stages[first]))
                for ensemble in sharing:
                    self._observe(ensemble.name, streams)
