"""Use one timer for all live users; gevent's sleep creates one for every chunk of every user."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from typing import Any

from gevent.hub import Waiter, get_hub


class Clock:
    """Wakes greenlets of one thread at times of the monotonic clock."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Any]] = []
        """A heap of (time, number, waiter); the number makes entries comparable."""
        self._numbers = itertools.count()
        self._loop: Any = get_hub().loop
        self._timer: Any = None
        self._rings_s = math.inf

    def wait_until(self, due_s: float) -> None:
        """Let other greenlets run until `due_s`; return at once if that time has passed."""
        if due_s <= time.monotonic():
            return
        waiter: Any = Waiter()
        heapq.heappush(self._due, (due_s, next(self._numbers), waiter))
        if due_s < self._rings_s:
            self._set(due_s)
        waiter.get()

    def _set(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.close()
        self._rings_s = due_s
        self._timer = self._loop.timer(max(0.0, due_s - time.monotonic()))
        self._timer.start(self._ring, update=True)

    def _ring(self) -> None:
        """Switch to the waiters that are due; answers precede those that become due meanwhile."""
        now_s, self._rings_s = time.monotonic(), math.inf
        while self._due and self._due[0][0] <= now_s:
            # A greenlet that was killed while it waited no longer exists.
            heapq.heappop(self._due)[2].switch(None)
        if self._due and self._due[0][0] < self._rings_s:
            self._set(self._due[0][0])
