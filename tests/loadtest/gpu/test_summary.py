"""The summary lists every result with its limit."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.gpu.summary import limit_of, write_summary
from loadtest.result.document import UNFINISHED, StageUse
from tests.support.sample_results import gpu_result, level


def test_the_summary_names_the_limit_of_each_result(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "capacity_demo_560ms_fp16.json")
    times = {"batches": [{"batch": 8, "ms": 2.0}, {"batch": 4096, "ms": 9.0}]}
    (tmp_path / "engine_demo_560ms_fp16.json").write_text(json.dumps(times))
    write_summary(tmp_path, instances=2)
    [row] = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert row["streams"] == gpu_result().streams
    assert row["limit"] in html.unescape((tmp_path / "summary.html").read_text())
    assert row["limit"].endswith("% in use")


def test_processes_are_counted_by_kind(tmp_path: Path) -> None:
    """Results of both kinds lie side by side after a call with `--own-engines`."""
    [*levels, last] = gpu_result().levels
    stages = [StageUse("recognizer", 1.0, 0.0, 4.0, round(1000 * last.hold_s), None)]
    result = replace(gpu_result(), levels=[*levels, replace(last, stages=stages)])
    for kind in ("", "_own"):
        result.write(tmp_path / f"capacity_demo_560ms_fp16{kind}.json")
    write_summary(tmp_path, instances=4, own_engines=True)
    rows = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert [row["recognizer_busy"] for row in rows] == pytest.approx([4 / 8, 4 / 4])


def test_a_late_generator_is_the_limit() -> None:
    late = replace(level(100, 50), valid=False)
    assert limit_of(late, None, busy=0.99, cores=2) == "the load generator"
    found = limit_of(level(100, 50), None, busy=0.99, cores=200)
    assert found.startswith("the recognizer's processes")
    assert limit_of(level(100, 50), None, busy=0.01, cores=1).startswith("the cores")


def test_processes_that_wait_for_their_engine_are_not_the_limit() -> None:
    found = limit_of(level(100, 50), engine_busy=0.95, busy=1.0, cores=200)
    assert found == "the engine: 95% in use"
    found = limit_of(level(100, 50), engine_busy=0.5, busy=0.98, cores=200)
    assert found == "the recognizer's processes: 98% in use"


def test_a_search_that_did_not_end_is_marked(tmp_path: Path) -> None:
    unfinished = replace(gpu_result(), verdict="invalid", limit=UNFINISHED)
    unfinished.write(tmp_path / "capacity_demo_560ms_fp16.unfinished.json")
    (tmp_path / "engine_demo_560ms_fp16.json").write_text('{"batches": [{"batch": 512, "ms": 9}]}')
    write_summary(tmp_path, instances=2)
    [row] = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert row["limit"] == "not known, the search did not end"
    assert "ms, fp32, unfinished" in (tmp_path / "summary.html").read_text()
