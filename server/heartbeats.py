"""Read the files in which the stages show that they live."""

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
"""A process without a heartbeat for so long stands still, if it also does nothing."""
_STARVED_S = 5.0
"""One that works, or waits for a core or a disk, may only be slow: others may have taken them."""
_WORKING = {"R", "D"}


def read_heartbeats(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the last heartbeat of each process that has not ended by itself."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # unloaded at this moment
            yield json.loads(path.read_text())


def standstill(beat: dict[str, Any], now_s: float) -> str | None:
    """Return what a process that does not go on does at the monotonic time `now_s`, else None."""
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
    """Sees which instances have worked well between two looks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, float]] = {}

    def look(self) -> Counter[str]:
        """Return how many instances of each stage have run batches without a failed chunk."""
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
    """Sees for how long no stage has had a stream, or has begun or ended a batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: object = None
        self._since_s = time.monotonic()

    def look(self) -> float:
        """Return the seconds between the last look that saw work and this one."""
        beats = list(read_heartbeats(self._folder))
        seen = [(beat["instance"], beat["batches"]) for beat in beats]
        busy = any(beat["busy_since_s"] for beat in beats) or any(_open_streams(beats).values())
        if busy or seen != self._seen:
            self._since_s = time.monotonic()
        self._seen = seen
        return time.monotonic() - self._since_s


def _is_working(pid: int) -> bool:
    """Return True if a thread of the process runs or waits for a core or a disk."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] in _WORKING:
                return True
    return False
