"""Read the heartbeat files of the stages."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .backends.earshot.earshot_runtime.counts import FAILED_CHUNKS, LIVE_STREAMS

_SILENT_S = 1.25
"""A process without a heartbeat for this long has stopped, if it is idle as well."""
_STARVED_S = 5.0
"""The same for a process that runs, or waits for a core or a disk: it may only be slow."""
_WORKING = {"R", "D"}


def read_heartbeats(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the last heartbeat of each process that has not ended by itself."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # unloaded in the meantime
            yield json.loads(path.read_text())


def standstill(beat: dict[str, Any], now_s: float) -> str | None:
    """Return what is wrong with a process that makes no progress, else None."""
    silent_s = now_s - beat["beat_s"]
    if silent_s > _STARVED_S or (silent_s > _SILENT_S and not _is_working(beat["pid"])):
        return "stands still"
    if beat["busy_since_s"] and now_s - beat["busy_since_s"] > beat["patience_s"]:
        return f"hangs in a batch that takes longer than {beat['patience_s']:.1f} s"
    return None


def live_streams(folder: Path) -> Counter[str]:
    """Return the open streams of each stage that has any."""
    return _open_streams(read_heartbeats(folder))


def _open_streams(beats: Iterable[dict[str, Any]]) -> Counter[str]:
    live: Counter[str] = Counter()
    for beat in beats:
        for name, _, value in beat["metrics"]:
            if name == LIVE_STREAMS[0]:
                live[beat["model"]] += value
    return live


class Work:
    """Detects the instances that have worked without a failure between two looks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, float]] = {}

    def look(self) -> Counter[str]:
        """Count the instances of each stage that have run batches without a failed chunk."""
        before, self._seen = self._seen, {}
        proven: Counter[str] = Counter()
        for beat in read_heartbeats(self._folder):
            failed = sum(value for name, _, value in beat["metrics"] if name == FAILED_CHUNKS[0])
            self._seen[beat["instance"]] = (beat["batches"], failed)
            batches_before, failed_before = before.get(beat["instance"], (0, 0))
            if beat["batches"] > batches_before and failed == failed_before:
                proven[beat["model"]] += 1
        return proven


class Idleness:
    """Measures for how long no stage has had a stream, or has begun or ended a batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: object = None
        self._since_s = time.monotonic()

    def look(self) -> float:
        """Return the seconds since the last look that saw work."""
        beats = list(read_heartbeats(self._folder))
        seen = [(beat["instance"], beat["batches"]) for beat in beats]
        busy = any(beat["busy_since_s"] for beat in beats) or any(_open_streams(beats).values())
        if busy or seen != self._seen:
            self._since_s = time.monotonic()
        self._seen = seen
        return time.monotonic() - self._since_s


def _is_working(pid: int) -> bool:
    """Return True if a thread of the process is running, or waits for a core or a disk."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] in _WORKING:
                return True
    return False
