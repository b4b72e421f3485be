"""Housekeeping: silent streams expire, also after a tick that has failed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from server.backends.earshot.earshot_runtime import housekeeping
from server.backends.earshot.earshot_runtime.housekeeping import Housekeeper
from server.backends.earshot.earshot_runtime.sequences import SequenceStage
from tests.support.launcher import wait_for
from tests.support.toy_repository import MAX_IDLE_S, write_toy_repository
from tests.support.toy_stages import sequence_stage, summer_chunks


@pytest.fixture
def stage(tmp_path: Path) -> SequenceStage:
    return sequence_stage(write_toy_repository(tmp_path, max_streams=2))


def test_a_tick_expires_and_the_counts_tell(stage: SequenceStage) -> None:
    now_s = 0.0
    keeper = Housekeeper(stage.slots, threading.Lock(), clock=lambda: now_s)
    stage.process(summer_chunks((1, 1.0), (2, 1.0), (3, 1.0), flags="SSS"), now_s)
    keeper.tick()
    assert _counts(stage) == {
        "live_streams": 2,
        "slots": 2,
        "started_streams_total": 2,
        "refused_streams_total": 1,
        "expired_streams_total": 0,
    }
    now_s = 2 * MAX_IDLE_S
    keeper.tick()
    assert _counts(stage)["live_streams"] == 0
    assert _counts(stage)["expired_streams_total"] == 2


def _counts(stage: SequenceStage) -> dict[str, float]:
    values: dict[str, float] = {}
    for (name, _), value in stage.metrics().items():
        name = name.removeprefix("earshot_")
        if "stream" in name or "slots" in name:
            values[name] = values.get(name, 0) + value
    return values


def test_a_tick_that_fails_is_logged_and_made_up_for(
    stage: SequenceStage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(housekeeping, "INTERVAL_S", 0.01)
    calls: list[float] = []

    def clock() -> float:
        calls.append(0.0)
        if len(calls) == 1:
            raise RuntimeError("no clock")
        return 2 * MAX_IDLE_S

    stage.process(summer_chunks((1, 1.0), flags="S"), 0.0)
    keeper = Housekeeper(stage.slots, threading.Lock(), clock)
    keeper.start()
    wait_for(lambda: stage.slots.live == 0)
    keeper.stop()
    assert "RuntimeError: no clock" in capfd.readouterr().err
