"""Plans match arithmetic done by hand; results without a capacity are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.plan.capacity import Demand, NoPlan, admission_of, make_plan, newest_result
from tests.support.plan_command import run
from tests.support.sample_results import (
    capacity_result,
    gpu_result,
    invalid_result,
    level,
    overload_result,
)


def demand(
    streams: int, headroom: float = 0.2, spare: int = 1, price: float | None = None
) -> Demand:
    return Demand(streams, headroom, spare, price)


def test_gpus_with_headroom_and_one_spare() -> None:
    # 900 per GPU, 720 of them used; 5000 / 720 = 6.94, so 7 and 1 spare, at 2.50 each.
    plan = make_plan(gpu_result(), demand(5000, price=2.5))
    assert (plan.unit, plan.streams_per_unit_planned) == ("GPU", 720)
    assert (plan.units_for_the_streams, plan.spare_units, plan.replicas) == (7, 1, 8)
    assert plan.streams_per_replica_at_peak == 625
    assert plan.cost_per_hour == 20.0
    assert plan.cost_per_stream_hour == pytest.approx(0.004)


def test_without_gpus_whole_machines_are_planned() -> None:
    # 208 on this machine of two cores, 166.4 of them used; 1000 / 166 = 6.02.
    plan = make_plan(capacity_result(), demand(1000))
    assert (plan.unit, plan.streams_per_unit_planned) == ("machine", 166)
    assert (plan.units_for_the_streams, plan.replicas) == (7, 8)
    assert "a machine with 2 cores of AMD EPYC" in " ".join(plan.assumptions)


@pytest.mark.parametrize(
    ("streams", "per_gpu", "headroom", "spare", "units", "replicas"),
    [
        (720, 900.0, 0.2, 0, 1, 1),  # just fits
        (721, 900.0, 0.2, 0, 2, 2),  # one too many
        (1, 900.0, 0.2, 1, 1, 2),  # a fraction of a GPU is a GPU
        (100, 10.5, 0.0, 0, 10, 10),  # half a stream is none: 10 per GPU
        (8, 10.0, 0.2, 0, 1, 1),  # 10 * 0.8 is 8, whatever floats say
        (7, 10.0, 0.3, 2, 1, 3),
        (0, 900.0, 0.2, 1, 0, 0),  # nothing to serve, nothing to fail
    ],
)
def test_rounding(
    streams: int, per_gpu: float, headroom: float, spare: int, units: int, replicas: int
) -> None:
    result = replace(gpu_result(), streams_per_gpu=per_gpu)
    plan = make_plan(result, demand(streams, headroom, spare, price=3.0))
    assert (plan.units_for_the_streams, plan.replicas) == (units, replicas)
    assert plan.cost_per_hour == 3.0 * replicas


def test_no_streams_have_no_cost_each() -> None:
    plan = make_plan(gpu_result(), demand(0, price=3.0))
    assert plan.cost_per_stream_hour is None
    assert plan.streams_per_replica_at_peak is None


def test_the_plan_lists_its_assumptions() -> None:
    text = " ".join(make_plan(gpu_result(), demand(5000, price=2.5)).assumptions)
    for assumption in (
        "5,000 is the peak",
        "20% of what each GPU sustained stays free",
        "1 spare",
        "n GPUs sustain n times",
        "demo, tensorrt fp32, 560 ms chunks",
        "one NVIDIA H100, in a host like the measured one (2 cores of AMD EPYC for 1 GPU)",
        "2.5 buys one GPU with its host for one hour",
        "the load generator ran on the server's own machine",
    ):
        assert assumption in text
    assert "with server.chunkShare it may refuse before" in text


def test_a_single_level_that_passed_is_a_lower_bound() -> None:
    result = replace(capacity_result(), kind="level", streams=64, levels=[level(64, 90, 60)])
    plan = make_plan(result, demand(64, headroom=0))
    assert plan.units_for_the_streams == 1
    assert "one level that passed, not a search" in " ".join(plan.assumptions)


def test_streams_that_were_held_for_a_short_time_are_no_capacity() -> None:
    held = [level(64, 90, 20), level(32, 50, 60)]
    result = replace(capacity_result(), kind="level", streams=64, levels=held)
    with pytest.raises(NoPlan, match="expected 64 streams held for 60 s, got 20 s"):
        make_plan(result, demand(64))


def test_a_plan_has_no_more_streams_than_are_admitted() -> None:
    # 208 are sustained, 118.6 of them admitted, 94.9 used: 1000 / 94 = 10.6.
    admission = admission_of(overload_result(), capacity_result())
    plan = make_plan(capacity_result(), demand(1000), admission)
    assert (plan.streams_per_unit_measured, plan.streams_per_unit) == (208, 118.6)
    assert (plan.streams_per_unit_planned, plan.units_for_the_streams) == (94, 11)
    assert "refuses streams above 119" in " ".join(plan.assumptions)
    roomy = replace(admission, streams_per_unit=300)
    assert make_plan(capacity_result(), demand(1000), roomy).streams_per_unit_planned == 166


def test_an_overload_of_another_server_is_refused() -> None:
    overload = overload_result()
    with pytest.raises(NoPlan, match=r"failed \(p99 600 ms\)"):
        admission_of(replace(overload, passes=False, reasons=["p99 600 ms"]), capacity_result())
    with pytest.raises(NoPlan, match="its --chunk-share is not known"):
        admission_of(replace(overload, chunk_share=None), capacity_result())
    with pytest.raises(NoPlan, match=r"expected an overload of demo, .* on NVIDIA H100, got one"):
        admission_of(overload, gpu_result())


def test_invalid_and_failed_results_are_refused() -> None:
    with pytest.raises(NoPlan, match="INVALID"):
        make_plan(invalid_result(), demand(100))
    failed = replace(capacity_result(), kind="level", verdict="fail", streams=0)
    with pytest.raises(NoPlan, match=r"this level failed \(p99 chunk latency 894 ms"):
        make_plan(failed, demand(100))


def test_a_remote_server_has_no_hardware_to_name() -> None:
    result = capacity_result()
    far = replace(result.conditions, server_location="remote", cpu_cores=0, cpu_model="unknown")
    assumed = " ".join(make_plan(replace(result, conditions=far), demand(100)).assumptions)
    assert "each machine is like the measured one, which was remote" in assumed
    assert "0 cores" not in assumed


def test_a_headroom_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(NoPlan, match="leaves no whole stream of the 1 that one GPU sustains"):
        make_plan(replace(gpu_result(), streams_per_gpu=1.0), demand(100))
    with pytest.raises(NoPlan, match="from 0 to below 1, got 1"):
        make_plan(gpu_result(), demand(100, headroom=1.0))
    with pytest.raises(NoPlan, match=r"got -0\.1"):
        make_plan(gpu_result(), demand(100, headroom=-0.1))


def test_the_newest_capacity_result_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "overhead.json").write_text('{"what": "something else"}')
    with pytest.raises(NoPlan, match="no capacity result that passed"):
        newest_result(tmp_path)
    invalid_result().write(tmp_path / "z_invalid.json")
    for name, day in (("b", "20"), ("a", "22"), ("c", "21")):
        conditions = replace(capacity_result().conditions, started_at=f"2026-11-{day}T13:00:00Z")
        replace(capacity_result(), conditions=conditions).write(tmp_path / f"{name}.json")
    assert newest_result(tmp_path).name == "a.json"


def test_the_command_prints_json(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "run.json")
    done = run(str(tmp_path / "run.json"), "--streams", "5000", "--price-per-hour", "2.5", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["demand"]["streams"] == 5000
    assert [plan["replicas"] for plan in document["plans"]] == [8]


def test_the_command_prints_the_plan_and_its_assumptions(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "run.json")
    done = run(str(tmp_path / "run.json"), "--streams", "5000", "--price-per-hour", "2.5")
    assert done.returncode == 0, done.stderr
    assert "0.00400" in done.stdout
    assert "Assumed:" in done.stdout


def test_mistakes_of_the_user_end_with_2(tmp_path: Path) -> None:
    invalid_result().write(tmp_path / "invalid.json")
    done = run(str(tmp_path / "invalid.json"), "--streams", "10")
    assert (done.returncode, "INVALID" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
    missing = run(str(tmp_path / "none.json"), "--streams", "10")
    assert (missing.returncode, "none.json" in missing.stderr) == (2, True)
    assert run(str(tmp_path / "invalid.json")).returncode == 2  # --streams is missing
