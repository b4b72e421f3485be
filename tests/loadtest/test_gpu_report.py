"""The steps of the GPU report: done once, within the budget, resumed where a call has stopped."""

from __future__ import annotations

import html
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export import random_model
from loadtest import gpu_report
from loadtest.__main__ import app
from loadtest.gpu_report import (
    Model,
    Plan,
    Step,
    StepFailed,
    in_order,
    machine,
    slots,
    steps,
    work_off,
    write_pages,
)
from loadtest.gpu_summary import limit_of, write_summary
from tests.support.sample_results import gpu_result, level


def _plan(
    folder: Path,
    sizes: Sequence[str] = ("demo",),
    chunks_ms: Sequence[int] = (560,),
    max_streams: int | None = None,
    gpu_bytes: float = 0.0,
) -> Plan:
    return Plan(
        sizes=list(sizes),
        chunks_ms=list(chunks_ms),
        precision="fp16",
        instances=1,
        max_batch=64,
        processes=1,
        short_hold_s=5,
        hold_s=5,
        long_hold_s=300,
        first_streams=None,
        max_streams=max_streams,
        speech=folder,
        gpu_bytes=gpu_bytes,
        work=folder,
        results=folder,
    )


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
    plan = _plan(tmp_path)
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
    plan = _plan(tmp_path, sizes=["0.6b", "demo"], chunks_ms=[560, 160])
    names = [step.name for step in steps(plan)]
    assert names == [
        "machine",
        "engine_tests",
        "tokens_demo_fp16",
        "engine_0.6b_560ms_fp16",
        "capacity_0.6b_560ms_fp16",
        "engine_0.6b_160ms_fp16",
        "capacity_0.6b_160ms_fp16",
        "hold_0.6b_560ms_fp16",
        "engine_demo_560ms_fp16",
        "capacity_demo_560ms_fp16",
        "engine_demo_160ms_fp16",
        "capacity_demo_160ms_fp16",
        "tokens_demo_fp32",
    ]


def test_what_has_failed_before_comes_last_and_is_forgiven(tmp_path: Path) -> None:
    calls: list[str] = []
    todo = [_writes(calls, "a"), _writes(calls, "b")]
    (tmp_path / "a.failed.txt").write_text("out of memory")
    work_off(in_order(todo, tmp_path), tmp_path, 100)
    assert calls == ["b", "a"]
    assert not (tmp_path / "a.failed.txt").exists()


def test_the_long_hold_asks_for_a_share_of_what_was_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(tmp_path)
    [step] = [step for step in steps(plan) if step.name.startswith("hold")]
    with pytest.raises(StepFailed, match="no count to hold 80% of"):
        step.run(tmp_path / f"{step.name}.json", 100)
    result = gpu_result()
    result.write(tmp_path / "capacity_demo_560ms_fp16.json")
    said: list[str] = []

    def command(*arguments: str, **_: object) -> str:
        said.extend(arguments)
        (tmp_path / f"{step.name}.json").write_text("{}")
        return ""

    monkeypatch.setattr(gpu_report, "_command", command)
    step.run(tmp_path / f"{step.name}.json", 100)
    held = int(said[said.index("--streams") + 1])
    assert 0.79 * result.streams < held <= 0.8 * result.streams
    assert said[said.index("--hold-s") + 1] == str(plan.long_hold_s)


def test_the_pool_of_states_fits_the_gpu(tmp_path: Path) -> None:
    large = Model("0.6b", 1120, "fp16")
    for gpu_bytes in (80e9, 141e9):
        held = slots(_plan(tmp_path, gpu_bytes=gpu_bytes), large)
        assert held * gpu_report.STATE_BYTES["0.6b"] <= gpu_report.POOL_SHARE * gpu_bytes
    assert slots(_plan(tmp_path, gpu_bytes=141e9), Model("demo", 560, "fp16")) == 2 * 4500
    assert slots(_plan(tmp_path, max_streams=7), large) == 7


@pytest.mark.parametrize(("size", "stands_for"), random_model.SIZES.items())
def test_states_are_no_larger_than_is_reckoned(size: str, stands_for: random_model.Size) -> None:
    """Keys and values of 70 frames, and the last inputs of the depthwise convolutions."""
    frames = stands_for.num_hidden_layers * stands_for.hidden_size * (2 * 70 + 8)
    assert 2 * frames < gpu_report.STATE_BYTES[size] < 1.1 * 2 * frames


def test_the_summary_names_the_limit_of_each_result(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "capacity_demo_560ms_fp16.json")
    times = {"batches": [{"batch": 8, "ms": 2.0}, {"batch": 4096, "ms": 9.0}]}
    (tmp_path / "engine_demo_560ms_fp16.json").write_text(json.dumps(times))
    write_summary(tmp_path, instances=2)
    [row] = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert row["streams"] == gpu_result().streams
    assert row["limit"] in html.unescape((tmp_path / "summary.html").read_text())
    assert row["limit"].endswith("% in use")


def test_a_late_generator_is_the_limit() -> None:
    late = replace(level(100, 50), valid=False)
    assert limit_of(late, busy=0.99, cores=2) == "the load generator"
    assert limit_of(level(100, 50), busy=0.99, cores=200).startswith("the recognizer's processes")
    assert limit_of(level(100, 50), busy=0.01, cores=1).startswith("the cores")


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
