"""Tell the launcher that this process lives, since when it has worked on a batch, and its metrics.

Triton neither replaces a process that has died nor notices one that hangs: it reports the model as
ready for ever. The launcher reads these files, and ends the server if one of them stands still.

Triton could publish the metrics as well. But each value is a message to it through shared memory
with locks of its own, and while models load, it has hung or crashed in these (2.51, nine times in
one run of the tests on a busy machine).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from .counts import Values

FOLDER_VARIABLE = "EARSHOT_HEARTBEATS"
INTERVAL_S = 0.5
_LEAST_PATIENCE_S = 5.0
"""Shorter, and a machine whose cores are all taken would end a server that is merely slow."""
_PATIENCE_BATCHES = 10.0
"""A batch that takes so many times as long as the slowest before it hangs."""


class Heartbeat:
    """A file that a thread writes anew every INTERVAL_S while the process lives."""

    def __init__(
        self,
        folder: Path,
        model: str,
        instance: str,
        metrics: Callable[[], Values],
        slowest_s: float,
    ) -> None:
        """Begin with `slowest_s` as the time of the slowest batch.

        Args:
            metrics: returns the values of now, in the thread of the heartbeat; it must not wait
                for a batch, because one may hang.
        """
        # A model that is loaded again has the same instances, while the old ones end.
        self._path = folder / f"{instance}.{os.getpid()}.json"
        self._model = model
        self._instance = instance
        self._metrics = metrics
        self._slowest_s = slowest_s
        self._busy_since_s: float | None = None
        self._batches = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove the file: this process ends because it was asked to."""
        self._stopping.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    @contextmanager
    def batch(self) -> Generator[None]:
        """Note that a batch runs for the length of the block."""
        began_s = self._busy_since_s = time.monotonic()
        try:
            yield
        finally:
            self._batches += 1
            self._busy_since_s = None
            self._slowest_s = max(self._slowest_s, time.monotonic() - began_s)

    def _loop(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            self._beat()

    def _beat(self) -> None:
        facts = {
            "model": self._model,
            "instance": self._instance,
            "pid": os.getpid(),
            "beat_s": time.monotonic(),
            "busy_since_s": self._busy_since_s,
            "batches": self._batches,
            "patience_s": max(_LEAST_PATIENCE_S, _PATIENCE_BATCHES * self._slowest_s),
            "metrics": [
                [name, dict(labels), value] for (name, labels), value in self._metrics().items()
            ],
        }
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(facts))
        new.replace(self._path)  # readers never see half a file
