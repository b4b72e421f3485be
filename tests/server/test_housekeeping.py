"""Housekeeping: silent streams expire, and metrics are set only when they change."""

from __future__ import annotations

import threading

import pytest

from server.backends.earshot.earshot_runtime import housekeeping
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


class MetricThatFailsOnce(RecordedMetric):
    """Raises on its first call, as if Triton did not answer, and records the next."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.reported = threading.Event()

    def set(self, value: float) -> None:
        if not self.failures:
            self.failures += 1
            raise RuntimeError("no answer")
        super().set(value)
        self.reported.set()


def test_a_tick_that_fails_is_logged_and_made_up_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(housekeeping, "INTERVAL_S", 0.01)
    slots = SlotTable(capacity=4, max_idle_s=10.0)
    live = MetricThatFailsOnce()
    keeper = Housekeeper(slots, threading.Lock(), live, RecordedMetric(), clock=lambda: 0.0)
    slots.open(1, 0.0)
    keeper.start()
    assert live.reported.wait(timeout=10)
    keeper.stop()
    assert (live.failures, live.calls) == (1, [1])
    assert "RuntimeError: no answer" in capfd.readouterr().err
