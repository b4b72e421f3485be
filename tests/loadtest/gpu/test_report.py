"""A report does its steps once, within the budget, and goes on where a call has stopped."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.gpu import environment, report
from loadtest.gpu.exports import Exports
from loadtest.gpu.machine import describe_machine
from loadtest.gpu.process import StepFailed
from loadtest.gpu.report import (
    Outcome,
    in_groups,
    prepare,
    run_report,
    run_steps,
    write_pages,
)
from loadtest.gpu.schedule import MARGIN_S
from loadtest.gpu.steps import CHECK_MOST_S, Step, StepUnfinished
from tests.support.sample_report_options import options
from tests.support.sample_results import gpu_result


def in_s(seconds: float) -> float:
    return time.monotonic() + seconds


def writes(calls: list[str], name: str, later: bool = False) -> Step:
    def run(path: Path, deadline_s: float) -> None:
        calls.append(name)
        path.write_text("{}")

    return Step(name, 1, run, later=later)


def test_steps_with_a_result_are_not_repeated(tmp_path: Path) -> None:
    calls: list[str] = []
    (tmp_path / "a.json").write_text("{}")
    outcome = run_steps([writes(calls, "a"), writes(calls, "b")], tmp_path, in_s(100))
    assert calls == ["b"]
    assert outcome.done == ["a", "b"]
    assert outcome.exit_code == 0


def test_no_step_starts_that_would_not_end_in_time(tmp_path: Path) -> None:
    calls: list[str] = []
    long = Step("long", 50, lambda path, deadline_s: calls.append("long"))
    outcome = run_steps([long, writes(calls, "short")], tmp_path, in_s(10))
    assert calls == ["short"]
    assert (outcome.left, outcome.exit_code) == (["long"], 3)


def test_a_step_leaves_time_for_those_after_it(tmp_path: Path) -> None:
    given: list[float] = []

    def run(path: Path, deadline_s: float) -> None:
        given.append(deadline_s - time.monotonic())
        path.write_text("{}")

    todo = [Step("search", 10, run, most_s=300), Step("next", 40, run), Step("done", 30, run)]
    (tmp_path / "done.json").write_text("{}")
    run_steps(todo, tmp_path, in_s(100))
    assert given == pytest.approx([100 - 40 - MARGIN_S, 100], abs=1)


def test_steps_that_need_one_that_failed_are_left(tmp_path: Path) -> None:
    """If the first search fails, a call that does something else has the time instead."""
    calls: list[str] = []

    def fails(path: Path, deadline_s: float) -> None:
        raise StepFailed("the server ended")

    other = Step("other", 1, lambda path, _: calls.append("other"), needs="first")
    outcome = run_steps([Step("first", 1, fails), other], tmp_path, in_s(10))
    assert (outcome.failed, outcome.left, calls) == (["first"], ["other"], [])


def test_a_step_that_fails_leaves_its_reason_and_no_result(tmp_path: Path) -> None:
    calls: list[str] = []

    def fails(path: Path, deadline_s: float) -> None:
        raise StepFailed("out of memory")

    outcome = run_steps([Step("bad", 1, fails), writes(calls, "good")], tmp_path, in_s(10))
    assert (outcome.failed, outcome.done, outcome.exit_code) == (["bad"], ["good"], 1)
    assert "out of memory" in (tmp_path / "bad.failed.txt").read_text()
    assert not (tmp_path / "bad.json").exists()


def test_a_search_that_did_not_end_is_repeated_last(tmp_path: Path) -> None:
    calls: list[str] = []

    def is_ended(path: Path, deadline_s: float) -> None:
        path.with_name("search.unfinished.json").write_text("{}")
        raise StepUnfinished("3 levels are kept")

    outcome = run_steps([Step("search", 1, is_ended)], tmp_path, in_s(10))
    assert (outcome.unfinished, outcome.exit_code) == (["search"], 3)
    groups = in_groups([writes(calls, "search"), writes(calls, "other", later=True)], tmp_path)
    assert [[step.name for step in group] for group in groups] == [["other"], ["search"]]
    run_steps(groups[1], tmp_path, in_s(10))
    assert [file.name for file in tmp_path.iterdir()] == ["search.json"]


def test_checks_run_beside_the_exports_and_not_for_long(tmp_path: Path) -> None:
    deadlines: list[float] = []

    def run(path: Path, deadline_s: float) -> None:
        deadlines.append(deadline_s - time.monotonic())
        path.write_text("{}")

    check = Step("check", 1, run, timed=False, most_s=CHECK_MOST_S)
    todo = [check, Step("measurement", 1, run)]
    outcome = Outcome()
    prepare(todo, Exports(options(tmp_path)), tmp_path, in_s(1000), outcome)
    assert outcome.done == ["check"]
    assert deadlines[0] <= CHECK_MOST_S
    run_steps(todo, tmp_path, in_s(1000), outcome)
    assert outcome.done == ["check", "measurement"]


def test_steps_that_failed_before_come_last_and_later_steps_before_them(tmp_path: Path) -> None:
    calls: list[str] = []
    todo = [writes(calls, "a"), writes(calls, "b", later=True), writes(calls, "c")]
    (tmp_path / "a.failed.txt").write_text("out of memory")
    for group in in_groups(todo, tmp_path):
        run_steps(group, tmp_path, in_s(100))
    assert calls == ["c", "b", "a"]
    assert not (tmp_path / "a.failed.txt").exists()


def test_without_its_environment_a_report_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks_torch(module: str, *_: str, **__: float) -> str:
        raise StepFailed(f"{module} ended with 1: torch: no such module")

    monkeypatch.setattr(report, "run_module", lacks_torch)
    outcome = run_report(options(tmp_path), budget_s=100)
    assert (outcome.failed, outcome.exit_code) == (["environment"], 1)
    assert [file.name for file in tmp_path.iterdir()] == ["environment.failed.txt"]


def test_a_complete_environment_leaves_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "MODULES", ("json",))
    environment.main(tmp_path / "environment.json")
    assert list(json.loads((tmp_path / "environment.json").read_text())) == ["device"]
    monkeypatch.setattr(environment, "MODULES", ("no_such_module",))
    with pytest.raises(SystemExit, match="cannot be imported:\nno_such_module"):
        environment.main(tmp_path / "environment.json")


def test_modules_that_cannot_be_imported_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MODULES", ("json", "no_such_module"))
    assert environment.missing_modules() == ["no_such_module: No module named 'no_such_module'"]


def test_every_capacity_gets_its_page(tmp_path: Path) -> None:
    for chunk_ms in (160, 560):
        gpu_result().write(tmp_path / f"capacity_demo_{chunk_ms}ms_fp16.json")
    write_pages(tmp_path)
    pages = sorted(tmp_path.glob("*.html"))
    assert [page.stem[-10:] for page in pages] == ["160ms_fp16", "560ms_fp16"]
    assert all("per GPU" in page.read_text() for page in pages)


def test_the_machine_is_described() -> None:
    described = json.loads(json.dumps(describe_machine()))
    assert described["cores"] >= 1
    assert described["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert described["versions"]["torch"][0].isdigit()


def test_a_dry_run_prints_the_schedule_and_leaves_nothing(tmp_path: Path) -> None:
    arguments = ["--dry-run", "--budget-s=550", "--next-budget-s=190"]
    outcome = CliRunner().invoke(app, ["gpu-report", "--results", str(tmp_path), *arguments])
    assert outcome.exit_code == 0
    assert "capacity_0.6b_560ms_fp16" in outcome.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"), [("--sizes=7b", "no size 7b"), ("--chunks-ms=100", "no chunk of 100 ms")]
)
def test_unknown_sizes_and_chunks_are_refused(tmp_path: Path, option: str, message: str) -> None:
    outcome = CliRunner().invoke(app, ["gpu-report", option, "--results", str(tmp_path)])
    assert outcome.exit_code == 2
    assert message in outcome.output
