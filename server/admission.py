"""Limit the open streams by how long chunks take, so that the open streams stay in time.

Slots say how many streams fit into memory, not how many the cores carry. That shows in the time
from a chunk's arrival to its text, which Triton counts for every chunk and stage. While work
waits for work, that time is `idle / (1 - busy)`: `idle` is what a chunk takes on an idle server,
and `busy` the share of what the cores can do. So two times tell how busy the server is, and its
load tells with how many streams it would be as busy as it may be. Concurrency limits of the Vegas
kind (TCP's, and those of request servers) work alike.
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
"""Below, the two times are too close to each other to compare."""
_LEAST_IDLE_TIMES = 2.0
"""A chunk may take so many times as long as on the idle server, whatever the share: below, a model
whose chunks are short, or a slow machine, would have no stream at all."""
_GROWTH = 1.5
"""Per window: streams that have just begun do not show in the times yet."""
_TIMEOUT_S = 5.0
_SAMPLE = re.compile(
    r"^nv_inference_(request_duration_us|request_success|pending_request_count)"
    r'{[^}]*model="([^"]+)"[^}]*} (\S+)$',
    re.MULTILINE,
)

Observe = Callable[[str, int], None]
"""Takes an ensemble and the streams that it may hold from now on."""


def chosen_share(requested: float | None, models: Repository) -> float | None:
    """Return the share of its length that a chunk may take; None for no limit.

    Args:
        requested: 0 for no limit, None for the default of the models.

    Raises:
        BadRepository: the models cannot keep a limit.
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
    """The time that the chunks took."""
    chunks: int
    live: int
    """Open streams, those that send nothing among them."""
    waiting: int
    """Chunks that wait at some stage."""


@dataclass
class StreamLimit:
    """The number of streams that a first stage may hold."""

    chunk_s: float
    chunk_share: float
    idle_s: float = math.inf
    """The least mean time of a chunk so far."""
    _readings: deque[Reading] = field(default_factory=deque[Reading])

    def update(self, now: Reading) -> int | None:
        """Return the limit; None as long as too little has been seen to change it."""
        if self._readings and now.chunks < self._readings[-1].chunks:
            self._readings.clear()  # the model was loaded again
        self._readings.append(now)
        window_s = max(_LEAST_WINDOW_S, 2 * self.chunk_s)
        while len(self._readings) > 2 and now.at_s - self._readings[1].at_s >= window_s:
            self._readings.popleft()
        before = self._readings[0]
        # What streams that have begun since then bring does not show in the times yet.
        live = min(before.live, now.live)
        chunks = now.chunks - before.chunks
        if not chunks and now.waiting:
            return 0 if now.at_s - before.at_s >= window_s else None
        if not chunks:
            return self._idle_limit(live)
        mean_s = (now.total_s - before.total_s) / chunks
        self.idle_s = min(self.idle_s, mean_s)
        # Every stream has one chunk per `chunk_s`: the share that waits now tells the time that
        # they will have taken.
        mean_s = max(mean_s, self.chunk_s * now.waiting / max(1, now.live))
        load = chunks * self.chunk_s / (now.at_s - before.at_s)
        return max(1, live + self._more(load, mean_s))

    def _idle_limit(self, live: int) -> int | None:
        return None if math.isinf(self.idle_s) else live + self._one_by_one()

    def _more(self, load: float, mean_s: float) -> int:
        """Return how many streams fit beside `load`; below 0 if even those are too many."""
        busy = max(_LEAST_BUSY, 1 - self.idle_s / mean_s)
        most_s = max(self.chunk_share * self.chunk_s, _LEAST_IDLE_TIMES * self.idle_s)
        allowed = 1 - self.idle_s / most_s
        more = math.floor(load * (allowed / busy - 1))
        return min(more, math.floor((_GROWTH - 1) * load) + self._one_by_one())

    def _one_by_one(self) -> int:
        """Return how many streams an idle server carries without any batching."""
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
        """Let the mean chunk take `chunk_share` of its length at most.

        Args:
            folder: where the stages look for the limit.
        """
        self._metrics_url = metrics_url
        self._folder = folder
        self._chunk_share = chunk_share
        self._observe = observe
        self._sharing: dict[str, list[Ensemble]] = {}
        """Ensembles by their first stage, which a recognizer with heads shares with its base."""
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
        """Read the metrics, and decide anew."""
        try:
            with urllib.request.urlopen(self._metrics_url, timeout=_TIMEOUT_S) as response:
                self.decide(response.read().decode(), time.monotonic())
        except OSError:  # no answer in time: what was decided stays
            return

    def decide(self, metrics: str, at_s: float) -> None:
        """Decide from the text of Triton's metrics at `at_s`."""
        values: defaultdict[tuple[str, str], float] = defaultdict(float)
        for kind, model, value in _SAMPLE.findall(metrics):
            values[model, kind] += float(value)  # a model on GPUs has a value for each
        live = live_streams(self._folder)
        for first, sharing in self._sharing.items():
            stages = {stage for ensemble in sharing for stage in ensemble.stages}
            now = Reading(
                at_s,
                # Of the stages, not of the ensembles: adapters have ensembles of their own.
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
