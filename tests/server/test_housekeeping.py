"""Housekeeping: silent streams go, metrics follow, Triton is only asked when something changed."""

from __future__ import annotations

import threading

from server.backends.earshot.earshot_runtime.housekeeping import Housekeeper
from server.backends.earshot.earshot_runtime.slots import SlotTable


class RecordedMetric:
    """Remembers the calls that would be round trips to Triton."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def set(self, value: float) -> None:
        self.calls.append(value)

    def increment(self, value: float) -> None:
        self.calls.append(value)


def test_a_tick_expires_and_reports_changes_only() -> None:
    now_s = 0.0
    slots = SlotTable(capacity=4, max_idle_s=10.0)
    live, expired = RecordedMetric(), RecordedMetric()
    keeper = Housekeeper(slots, threading.Lock(), live, expired, clock=lambda: now_s)
    slots.open(1, now_s)
    slots.open(2, now_s)
    keeper.tick()
    keeper.tick()
    assert (live.calls, expired.calls) == ([2], [])
    now_s = 11.5
    keeper.tick()
    assert (live.calls, expired.calls) == ([2, 0], [2])
