"""A schedule fits its calls, and gives the most important steps the time that others can spare."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.gpu.exports import Exports
from loadtest.gpu.plan import WHOLE
from loadtest.gpu.schedule import ENVIRONMENT_S, MARGIN_S, PREPARE_S, allotted_s, schedule
from loadtest.gpu.steps import Step, Steps
from tests.support.sample_report_options import options


def step(name: str, least_s: float, most_s: float = 1000, *, filler: bool = False) -> Step:
    return Step(name, least_s, lambda path, deadline_s: None, most_s=most_s, filler=filler)


def test_a_step_gets_what_the_next_ones_can_spare() -> None:
    following = [step("b", 100), step("c", 500), step("d", 50)]
    # There is no time for c in any case, so none is kept for it.
    assert allotted_s(step("a", 80), following, 400, 0) == 400 - 100 - 50 - 2 * MARGIN_S
    assert allotted_s(step("a", 80, most_s=120), following, 400, 0) == 120


def test_no_time_is_kept_for_what_fits_the_next_call() -> None:
    following = [step("b", 100), step("c", 250)]
    assert allotted_s(step("a", 100), following, 400, 0) == 400 - 100 - MARGIN_S
    assert allotted_s(step("a", 350), following, 400, 120) == 400


def test_no_time_is_kept_for_a_filler() -> None:
    assert allotted_s(step("a", 100), [step("b", 100, filler=True)], 400, 0) == 400


@pytest.mark.parametrize("calls_s", [(550, 190), (520, 0), (300, 300, 300), (60,)])
def test_what_is_scheduled_fits_its_call(tmp_path: Path, calls_s: tuple[float, ...]) -> None:
    chosen = options(
        tmp_path, sizes=("0.6b", "demo"), chunks_ms=(560, 1120, 320, 160, WHOLE), hold_s=60
    )
    todo = Steps(chosen, Exports(chosen)).all()
    slots = schedule(todo, calls_s)
    assert {slot.step.name for slot in slots} == {step.name for step in todo}
    for call, call_s in enumerate(calls_s, start=1):
        timed = [slot for slot in slots if slot.call == call and slot.step.timed]
        ends = [slot.starts_s + slot.allotted_s for slot in timed]
        begins = [*(slot.starts_s for slot in timed[1:]), call_s]
        assert all(end <= begin for end, begin in zip(ends, begins, strict=False))
        assert all(slot.allotted_s >= slot.step.least_s for slot in timed)
        if call == 1 and timed:
            assert timed[0].starts_s == ENVIRONMENT_S + PREPARE_S


def test_fifteen_minutes_have_the_checks_and_the_first_chunks(tmp_path: Path) -> None:
    chosen = options(
        tmp_path,
        sizes=("0.6b", "demo"),
        chunks_ms=(560, 1120, 320, 160, WHOLE),
        hold_s=60,
        short_hold_s=8,
    )
    slots = schedule(Steps(chosen, Exports(chosen)).all(), (550, 190))
    calls = {slot.step.name: slot.call for slot in slots if slot.call}
    assert calls.pop("machine") == 1
    assert calls == {
        "engine_tests": 1,
        "tokens_demo_560ms_fp16": 1,
        "tokens_demo_files_fp16": 1,
        "capacity_0.6b_560ms_fp16": 1,
        "capacity_0.6b_1120ms_fp16": 1,
        "capacity_0.6b_320ms_fp16": 2,
    }
