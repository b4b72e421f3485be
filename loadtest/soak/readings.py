"""Read a server's resources: memory, shared memory, file descriptors and slots."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import psutil

from loadtest.service.metrics import read_metrics
from loadtest.soak.document import Reading

_SHM = "/dev/shm/"


class ServerReader:
    """Reads one server, as far as its processes and metrics are visible."""

    def __init__(self, processes: Sequence[psutil.Process], metrics_url: str | None) -> None:
        self._processes = processes
        self._metrics_url = metrics_url

    def read(self, at_s: float) -> Reading:
        """Return the server's current resources."""
        alive = [process for process in self._processes if process.is_running()]
        if not alive:
            return Reading(at_s, None, None, None, self.slots())
        return Reading(
            at_s,
            sum(process.memory_info().rss for process in alive),
            sum(path.stat().st_size for path in _shared_memory(alive)),
            sum(process.num_fds() for process in alive),
            self.slots(),
        )

    def slots(self) -> int | None:
        """Return the open streams of the stage that holds the most."""
        live = read_metrics(self._metrics_url).by_model("earshot_live_streams")
        return round(max(live.values())) if live else None


def _shared_memory(processes: Sequence[psutil.Process]) -> set[Path]:
    paths: set[Path] = set()
    for process in processes:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
            mapped = (line.partition(_SHM) for line in maps)
            paths |= {Path(found + name) for _, found, name in mapped if found}
    return {path for path in paths if path.exists()}
