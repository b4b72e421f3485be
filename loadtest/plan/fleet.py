"""Simulate replicas that KEDA and Kubernetes scale with the number of live streams."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from loadtest.plan.scaling import FULL, TOLERANCE, Scaling

_SCALE_DOWN_EVERY_S = 300.0
_SCALE_DOWN_SHARE = 0.1
_SCALE_UP_EVERY_S = 60.0


def _no_streams() -> npt.NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass
class Fleet:
    """The current replicas, and the live streams on each."""

    scaling: Scaling
    capacity: int
    """Number of streams at which a replica refuses more."""
    serving: npt.NDArray[np.int64]
    """Live streams of each replica that accepts new ones."""
    starting: list[float] = field(default_factory=list[float])
    """Times at which the requested replicas begin to serve."""
    draining: npt.NDArray[np.int64] = field(default_factory=_no_streams)
    drained_by_s: list[float] = field(default_factory=list[float])
    moved: int = 0
    """Streams that were cut off by a drain and continued on another replica."""
    _wanted: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])
    _grown_s: float = -math.inf
    _shrunk_s: float = -math.inf

    @property
    def live(self) -> int:
        """Return the live streams of all replicas."""
        return int(self.serving.sum() + self.draining.sum())

    @property
    def replicas(self) -> int:
        """Return the number of replicas that occupy a unit."""
        return len(self.serving) + len(self.starting) + len(self.draining)

    def end_calls(self, share: float, chance: np.random.Generator) -> None:
        """End each live stream with a probability of `share`."""
        self.serving -= chance.binomial(self.serving, share)
        self.draining -= chance.binomial(self.draining, share)

    def take(self, calls: int, chance: np.random.Generator) -> int:
        """Place new streams as Envoy does; return how many were refused by all replicas.

        Of two randomly drawn replicas, the one with fewer streams gets the stream. If it is full,
        it refuses the stream, which is then tried elsewhere.
        """
        count = len(self.serving)
        rank = np.empty(count, np.int64)
        rank[np.argsort(self.serving, kind="stable")] = np.arange(count)
        self.serving += chance.multinomial(calls, (2 * (count - rank) - 1) / count**2)
        refused = int(np.maximum(self.serving - self.capacity, 0).sum())
        np.minimum(self.serving, self.capacity, out=self.serving)
        return self._take_anywhere(refused)

    def _take_anywhere(self, streams: int) -> int:
        """Place streams wherever there is room; return how many found none."""
        room = self.capacity - self.serving
        before = np.cumsum(room) - room
        self.serving += np.clip(streams - before, 0, room)
        return max(0, streams - int(room.sum()))

    def scale(self, now_s: float) -> None:
        """Start or drain replicas as needed; call this every few seconds."""
        self._begin_to_serve(now_s)
        self._end_drains(now_s)
        there = len(self.serving) + len(self.starting)
        if not self._wanted:
            self._wanted.append((now_s, there))
        wanted = self._desired()
        # The number never falls below the largest one wanted recently.
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()
        self._wanted.append((now_s, wanted))
        while self._wanted[0][0] < now_s - self.scaling.scale_down_s:
            self._wanted.popleft()
        if wanted > there and now_s - self._grown_s >= _SCALE_UP_EVERY_S:
            more = min(wanted - there, there)  # at most twice as many in a minute
            self.starting += [now_s + self.scaling.start_s] * more
            self._grown_s = now_s
        elif self._wanted[0][1] < there and now_s - self._shrunk_s >= _SCALE_DOWN_EVERY_S:
            fewer = max(1, math.floor(_SCALE_DOWN_SHARE * there))
            self._drain(min(fewer, there - self._wanted[0][1], len(self.serving) - 1), now_s)
            self._shrunk_s = now_s

    def _desired(self) -> int:
        shares = self.serving / self.capacity
        wanted = max(
            self._replicas_for(self.live / self.scaling.threshold),
            self._replicas_for(float(shares[shares > FULL].sum()) / self.scaling.fullness),
        )
        return min(max(wanted, self.scaling.min_replicas), self.scaling.max_replicas)

    def _replicas_for(self, load: float) -> int:
        """Return the number of replicas that Kubernetes wants for a load of `load` replicas."""
        there = len(self.serving) + len(self.starting)
        return there if abs(load / there - 1) <= TOLERANCE else math.ceil(load - 1e-9)

    def _begin_to_serve(self, now_s: float) -> None:
        ready = sum(begins_s <= now_s for begins_s in self.starting)
        self.starting = [begins_s for begins_s in self.starting if begins_s > now_s]
        self.serving = np.concatenate([self.serving, np.zeros(ready, np.int64)])

    def _drain(self, count: int, now_s: float) -> None:
        """Drain the youngest replicas, as Kubernetes does."""
        kept = len(self.serving) - count
        self.draining = np.concatenate([self.draining, self.serving[kept:]])
        self.drained_by_s += [now_s + self.scaling.drain_s] * count
        self.serving = self.serving[:kept]

    def _end_drains(self, now_s: float) -> None:
        late = np.array(self.drained_by_s) <= now_s
        cut = int(self.draining[late].sum())
        self.moved += cut
        over = late | (self.draining == 0)
        self.drained_by_s = [
            by_s for by_s, ended in zip(self.drained_by_s, over, strict=True) if not ended
        ]
        self.draining = self.draining[~over]
        self._take_anywhere(cut)
