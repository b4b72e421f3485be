"""Expire idle streams of a stage, even while no request arrives."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

from .slots import SlotTable

INTERVAL_S = 1.0


class Housekeeper:
    """A thread that expires the idle streams of one stage, once per interval."""

    def __init__(
        self,
        slots: SlotTable,
        lock: threading.Lock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._lock = lock
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                self.tick()
            except Exception:  # whatever fails, idle streams must still expire later
                # stderr is Triton's log.
                print("housekeeping failed, trying again:", file=sys.stderr)
                traceback.print_exc()

    def tick(self) -> None:
        """Expire streams that have sent nothing for too long."""
        with self._lock:
            self._slots.expire(self._clock())
