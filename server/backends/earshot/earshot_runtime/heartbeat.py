"""Report to the launcher that this process is alive, when its batch began, and its metrics.

Triton neither replaces a process that has died nor notices one that hangs: it keeps reporting the
model as ready. The launcher reads these files, and ends the server if one of them is no longer
updated.

Triton could publish the metrics as well. But each value would be a message to it through shared
memory with its own locks, in which it has hung or crashed while models load (2.51, nine times in
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
"""With less, a server that is merely slow, on a machine without a free core, would be ended."""
_PATIENCE_BATCHES = 10.0
"""A batch that takes this many times as long as the slowest one before it is considered to hang."""


class Heartbeat:
    """A file that a thread rewrites every INTERVAL_S while the process is alive."""

    def __init__(
        self,
        folder: Path,
        model: str,
        instance: str,
        metrics: Callable[[], Values],
        slowest_s: float,
    ) -> None:
        """Initialize the duration of the slowest batch with `slowest_s`.

        Args:
            metrics: returns the current values; called in the heartbeat's thread, it must not wait
                for a batch, because one may hang.
        """
        # A model that is loaded again has instances of the same names, while the old ones still
        # end.
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
        """End the thread and remove the file, because this process ends on request."""
        self._stopping.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    @contextmanager
    def batch(self) -> Generator[None]:
        """Report that a batch is running for the length of the block."""
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
