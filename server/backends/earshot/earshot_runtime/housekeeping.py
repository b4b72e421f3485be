"""Expire silent streams and report the metrics of a stage, also while no request comes."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

from .metrics import Publisher, Sample
from .sequences import SequenceStage

INTERVAL_S = 1.0
PUBLISHED: tuple[Sample, ...] = (
    ("earshot_live_streams", ()),
    ("earshot_expired_streams_total", ()),
)
"""Few, because each is a message to Triton: with some sixty of them while it loaded, one process in
some hundred hung, or crashed Triton in the locks of its shared memory."""


class Housekeeper:
    """A thread that looks after one stage, once per interval."""

    def __init__(
        self,
        stage: SequenceStage,
        lock: threading.Lock,
        publisher: Publisher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage = stage
        self._lock = lock
        self._publisher = publisher
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Open the metrics, and start the thread."""
        for sample in PUBLISHED:
            self._publisher.open(sample)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and release the metrics."""
        self._stopping.set()
        self._thread.join()
        self._publisher.close()

    def _loop(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            self._try_tick()

    def _try_tick(self) -> None:
        try:
            self.tick()
        except Exception:  # whatever it is, idle streams must go on to expire
            # stderr is Triton's log. What was not reported is part of the next report.
            print("housekeeping failed, trying again:", file=sys.stderr)
            traceback.print_exc()

    def tick(self) -> None:
        """Expire streams and report the changes since the last call."""
        with self._lock:
            self._stage.slots.expire(self._clock())
            values = self._stage.metrics()
        self._publisher.publish({sample: values[sample] for sample in PUBLISHED})
