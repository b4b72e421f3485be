"""The steps of the GPU report: done once, within the budget, resumed where a call has stopped."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from made_up_results import gpu_result
from typer.testing import CliRunner

from loadtest import gpu_report
from loadtest.__main__ import app
from loadtest.gpu_report import Plan, Step, StepFailed, machine, steps, work_off, write_pages


def _writes(calls: list[str], name: str) -> Step:
    def run(path: Path, left_s: float) -> None:
        calls.append(name)
        path.write_text("{}")

    return Step(name, 1, run)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    calls: list[str] = []
    todo = [_writes(calls, "a"), _writes(calls, "b")]
    (tmp_path / "a.json").write_text("{}")
    outcome = work_off(todo, tmp_path, 100)
    assert calls == ["b"]
    assert outcome.done == ["a", "b"]


def test_nothing_begins_that_would_not_end_in_time(tmp_path: Path) -> None:
    calls: list[str] = []
    long = Step("long", 50, lambda path, left_s: calls.append("long"))
    outcome = work_off([long, _writes(calls, "short")], tmp_path, 10)
    assert calls == ["short"]
    assert outcome.left == ["long"]


def test_a_step_that_fails_leaves_its_reason_and_no_result(tmp_path: Path) -> None:
    calls: list[str] = []

    def fails(path: Path, left_s: float) -> None:
        raise StepFailed("out of memory")

    outcome = work_off([Step("bad", 1, fails), _writes(calls, "good")], tmp_path, 10)
    assert (outcome.failed, outcome.done) == (["bad"], ["good"])
    assert "out of memory" in (tmp_path / "bad.failed.txt").read_text()
    assert not (tmp_path / "bad.json").exists()


def test_a_command_that_hangs_is_stopped_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "print('begun', flush=True)\n"
        "child.wait()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StepFailed, match="sleeper did not end in time: begun"):
        gpu_report._command("sleeper", deadline_s=time.monotonic() + 2)
    child = Path("/proc") / (tmp_path / "child").read_text() / "stat"
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_capacity_run_that_crashes_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(["demo"], [560], "fp16", 1, 64, 1, 5, None, None, tmp_path, tmp_path)
    # Exit code 1 also says that nothing was carried.
    monkeypatch.setattr(gpu_report, "_command", lambda *_, **__: "MemoryError")
    [step] = [step for step in steps(plan) if step.name.startswith("capacity")]
    with pytest.raises(StepFailed, match="left no result: MemoryError"):
        step.run(tmp_path / f"{step.name}.json", 100)


def test_a_command_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text("raise SystemExit('no such model')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StepFailed, match=r"failing ended with 1: no such model"):
        gpu_report._command("failing", deadline_s=time.monotonic() + 60)


def test_the_plan_covers_every_size_and_chunk(tmp_path: Path) -> None:
    plan = Plan(["demo", "0.6b"], [560, 160], "fp16", 1, 64, 1, 5, None, None, tmp_path, tmp_path)
    names = [step.name for step in steps(plan)]
    assert names[:3] == ["machine", "engine_tests", "tokens_demo_fp16"]
    assert names.index("capacity_0.6b_560ms_fp16") < names.index("capacity_0.6b_160ms_fp16")
    assert len(names) == len(set(names)) == 3 + 2 * 2 * 2


def test_every_capacity_gets_its_page(tmp_path: Path) -> None:
    for chunk_ms in (160, 560):
        gpu_result().write(tmp_path / f"capacity_demo_{chunk_ms}ms_fp16.json")
    write_pages(tmp_path)
    pages = sorted(tmp_path.glob("*.html"))
    assert [page.stem[-10:] for page in pages] == ["160ms_fp16", "560ms_fp16"]
    assert all("per GPU" in page.read_text() for page in pages)


def test_the_machine_says_what_it_is() -> None:
    said = json.loads(json.dumps(machine()))
    assert said["cores"] >= 1
    assert said["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert said["versions"]["torch"][0].isdigit()


@pytest.mark.parametrize(
    ("option", "message"), [("--sizes=7b", "no size 7b"), ("--chunks-ms=100", "no chunk of 100 ms")]
)
def test_what_does_not_exist_is_refused(tmp_path: Path, option: str, message: str) -> None:
    outcome = CliRunner().invoke(app, ["gpu-report", option, "--results", str(tmp_path)])
    assert outcome.exit_code == 2
    assert message in outcome.output
