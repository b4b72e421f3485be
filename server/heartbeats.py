"""Read the files in which the stages show that they live."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .backends.earshot.earshot_runtime.counts import LIVE_STREAMS

STALE_S = 5.0
"""Shorter, and a machine whose cores are all taken would end a server that is merely slow."""


def read_heartbeats(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the last heartbeat of each process that has not ended by itself."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # unloaded at this moment
            yield json.loads(path.read_text())


def standstill(beat: dict[str, Any], now_s: float) -> str | None:
    """Return what a process that does not go on does at the monotonic time `now_s`, else None."""
    if now_s - beat["beat_s"] > STALE_S:
        return "stands still"
    if beat["busy_since_s"] and now_s - beat["busy_since_s"] > beat["patience_s"]:
        return f"hangs in a batch that takes longer than {beat['patience_s']:.1f} s"
    return None


def live_streams(folder: Path) -> Counter[str]:
    """Return the open streams of each stage that has any."""
    live: Counter[str] = Counter()
    for beat in read_heartbeats(folder):
        for name, _, value in beat["metrics"]:
            if name == LIVE_STREAMS[0]:
                live[beat["model"]] += value
    return live
