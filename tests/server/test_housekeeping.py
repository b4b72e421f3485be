"""Housekeeping: silent streams expire, and metrics are set only when they change."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from server.backends.earshot.earshot_runtime import housekeeping
from server.backends.earshot.earshot_runtime.housekeeping import Housekeeper
from server.backends.earshot.earshot_runtime.metrics import Publisher
from server.backends.earshot.earshot_runtime.sequences import SequenceStage
from tests.support.toy_repository import MAX_IDLE_S, write_toy_repository
from tests.support.toy_stages import sequence_stage, summer_chunks


class RecordedTriton:
    """Remembers the calls that would be round trips to Triton, by name and reason."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.failures = 0
        self.reported = threading.Event()

    def family(self, name: str, description: str, is_gauge: bool) -> RecordedFamily:
        return RecordedFamily(self, name)


class RecordedFamily:
    def __init__(self, triton: RecordedTriton, name: str) -> None:
        self.triton, self.name = triton, name

    def Metric(self, labels: Mapping[str, str]) -> RecordedMetric:
        return RecordedMetric(self.triton, (self.name, labels.get("reason", "")))


class RecordedMetric:
    def __init__(self, triton: RecordedTriton, key: tuple[str, str]) -> None:
        self.triton, self.key = triton, key

    def set(self, value: float) -> None:
        self.increment(value)

    def increment(self, value: float) -> None:
        if self.triton.failures:
            self.triton.failures -= 1
            raise RuntimeError("no answer")
        self.triton.calls[self.key].append(value)
        self.triton.reported.set()


@pytest.fixture
def stage(tmp_path: Path) -> SequenceStage:
    return sequence_stage(write_toy_repository(tmp_path, max_streams=2))


def test_a_tick_expires_and_reports_changes_only(stage: SequenceStage) -> None:
    now_s = 0.0
    triton = RecordedTriton()
    publisher = Publisher(triton.family, {"model": "summer"})
    keeper = Housekeeper(stage, threading.Lock(), publisher, clock=lambda: now_s)
    keeper.tick()
    stage.process(summer_chunks((1, 1.0), (2, 1.0), (3, 1.0), (4, 99.0), flags="SSSS"), now_s)
    keeper.tick()
    keeper.tick()
    now_s = 2 * MAX_IDLE_S
    keeper.tick()
    publisher.close()
    assert triton.calls["earshot_live_streams", ""] == [0, 2, 0]
    assert triton.calls["earshot_expired_streams_total", ""] == [0, 2]


def test_a_tick_that_fails_is_logged_and_made_up_for(
    stage: SequenceStage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(housekeeping, "INTERVAL_S", 0.01)
    triton = RecordedTriton()
    triton.failures = 1
    keeper = Housekeeper(stage, threading.Lock(), Publisher(triton.family, {}), clock=lambda: 0.0)
    stage.process(summer_chunks((1, 1.0), flags="S"), 0.0)
    keeper.start()
    assert triton.reported.wait(timeout=10)
    keeper.stop()
    assert 1 in triton.calls["earshot_live_streams", ""]
    assert "RuntimeError: no answer" in capfd.readouterr().err
