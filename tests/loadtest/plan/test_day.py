"""The simulated day matches theory where there is one, and scales as Kubernetes does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtest.plan.day import Burst, Day, simulate
from loadtest.plan.fleet import Fleet
from loadtest.plan.scaling import Scaling
from tests.support.plan_command import run
from tests.support.project import PROJECT
from tests.support.sample_results import gpu_result

WORKING_DAY = PROJECT / "loadtest" / "plan" / "working_day.json"
STEADY = Day("as many calls at any time", 240.0, [1.0] * 24, [])
ONE = Scaling(1, 1, streams_per_replica=40, threshold=36, fullness=0.8)
MANY = Scaling(2, 20, streams_per_replica=100, threshold=90, fullness=0.8)


def erlang_b(offered: float, servers: int) -> float:
    """Return the share of calls that are lost, by the formula of Erlang."""
    lost = 1.0
    for count in range(1, servers + 1):
        lost = offered * lost / (count + offered * lost)
    return lost


@pytest.mark.parametrize("offered", [45, 55])
def test_one_replica_loses_what_erlang_computes(offered: int) -> None:
    day = simulate(STEADY, offered, capacity=50, scaling=ONE)
    assert day.refused / day.calls == pytest.approx(erlang_b(offered, 50), abs=0.012)
    assert day.replica_hours == 24


def test_enough_replicas_refuse_nobody() -> None:
    day = simulate(Day.from_json(WORKING_DAY), 1000, capacity=125, scaling=MANY)
    assert day.refused == 0
    assert min(minute.replicas for minute in day.minutes) == 2
    assert max(minute.live for minute in day.minutes) == pytest.approx(1000, rel=0.1)
    assert day.replica_hours < 24 * max(minute.replicas for minute in day.minutes)


def test_a_burst_that_replicas_come_too_late_for_is_refused() -> None:
    burst = replace(STEADY, bursts=[Burst(at_hour=12, minutes=10, factor=3)])
    late = simulate(burst, 500, capacity=125, scaling=MANY)
    soon = simulate(burst, 500, capacity=125, scaling=replace(MANY, start_s=5))
    assert late.refused > 0
    assert soon.refused < late.refused
    refusing = [index for index, minute in enumerate(late.minutes) if minute.refused]
    assert 720 <= refusing[0] < 725


def fleet(*serving: int, scaling: Scaling = MANY) -> Fleet:
    return Fleet(scaling, 125, np.array(serving, np.int64))


def test_nothing_happens_within_the_tolerance() -> None:
    balanced = fleet(98, 98)
    balanced.scale(0)
    assert balanced.replicas == 2


def test_replicas_come_before_others_refuse_although_more_was_planned() -> None:
    planned = Scaling(2, 20, streams_per_replica=144, threshold=130, fullness=0.8)

    def after(streams: int) -> int:
        filled = Fleet(planned, 119, np.array([streams, streams], np.int64))
        filled.scale(0)
        return filled.replicas

    assert after(104) == 2
    assert after(105) == 3  # 0.88 of what they admit


def test_a_replica_serves_after_its_start() -> None:
    busy = fleet(110, 110)
    busy.scale(0)
    assert (busy.replicas, len(busy.serving)) == (3, 2)
    busy.scale(175)
    assert len(busy.serving) == 2
    busy.scale(180)
    assert list(busy.serving) == [110, 110, 0]


def test_replicas_double_in_a_minute_at_most() -> None:
    flooded = Fleet(MANY, 1000, np.array([900, 900], np.int64))
    flooded.scale(0)
    assert flooded.replicas == 4
    flooded.scale(30)
    assert flooded.replicas == 4
    flooded.scale(60)
    assert flooded.replicas == 8


def test_a_replica_goes_slowly_and_drains() -> None:
    idle = fleet(50, 50, 10)
    for now_s in range(0, 1801, 15):
        idle.scale(now_s)
        assert len(idle.serving) == 3
    idle.scale(1815)
    assert (list(idle.serving), list(idle.draining)) == ([50, 50], [10])
    assert idle.take(20, np.random.default_rng(1)) == 0
    assert list(idle.draining) == [10]
    idle.scale(1815 + 900)
    assert (idle.moved, idle.replicas, idle.live) == (10, 2, 130)


def test_the_emptier_replicas_take_more() -> None:
    uneven = fleet(100, 100, 100, 0)
    uneven.take(64, np.random.default_rng(1))
    assert 20 <= uneven.serving[3] <= 36  # 7/16 of the new streams


def test_the_command_simulates_and_draws(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "run.json")
    plot = tmp_path / "day.svg"
    day = ["--day", str(WORKING_DAY), "--plot", str(plot), "--price-per-hour", "2", "--json"]
    done = run(str(tmp_path / "run.json"), "--streams", "5000", *day)
    assert done.returncode == 0, done.stderr
    [plan] = json.loads(done.stdout)["plans"]
    assert plan["day"]["refused"] == 0
    assert plan["day"]["replicas_max"] <= plan["replicas"]
    assert plan["day"]["cost"] == pytest.approx(2 * plan["day"]["replica_hours"], abs=0.2)
    assert "refused per minute" in plot.read_text()


def test_a_day_has_24_hours(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "run.json")
    short = json.loads(WORKING_DAY.read_text())
    short["load_by_hour"].pop()
    (tmp_path / "day.json").write_text(json.dumps(short))
    done = run(str(tmp_path / "run.json"), "--streams", "10", "--day", str(tmp_path / "day.json"))
    assert (done.returncode, "got 23 values" in done.stderr) == (2, True)
    done = run(str(tmp_path / "run.json"), "--streams", "10", "--plot", str(tmp_path / "day.svg"))
    assert (done.returncode, "name one with --day" in done.stderr) == (2, True)
