"""Expire silent streams and report the live ones, also while no request comes."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from .slots import SlotTable

INTERVAL_S = 1.0


class Metric(Protocol):
    """The methods of Triton's custom metric that are used here."""

    def set(self, value: float) -> None:
        """Set a gauge."""

    def increment(self, value: float) -> None:
        """Raise a counter."""


class Housekeeper:
    """A thread that maintains one table of slots, once per interval.

    Setting a metric is a round trip to Triton's process. In this thread it delays no chunk, and its
    cost does not grow with the load.
    """

    def __init__(
        self,
        slots: SlotTable,
        lock: threading.Lock,
        live_streams: Metric,
        expired_streams: Metric,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._lock = lock
        self._live_metric = live_streams
        self._expired_metric = expired_streams
        self._clock = clock
        self._reported = (0, 0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                self.tick()
            except Exception:  # whatever it is, idle streams must go on to expire
                # stderr is Triton's log. What was not reported is part of the next report.
                print("housekeeping failed, trying again:", file=sys.stderr)
                traceback.print_exc()

    def tick(self) -> None:
        """Expire streams and report the changes since the last call."""
        with self._lock:
            self._slots.expire(self._clock())
            live, expired = self._slots.live, self._slots.expired_total
        reported_live, reported_expired = self._reported
        if live != reported_live:
            self._live_metric.set(live)
        if expired != reported_expired:
            self._expired_metric.increment(expired - reported_expired)
        self._reported = (live, expired)
