"""The page shows every figure and every level of the result, and above all the verdict."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.report.page import headline, render
from loadtest.report.svg import Chart, Marker, RuleLine, Series, draw, nice_ticks
from loadtest.result.document import UNFINISHED, Timeline
from tests.support.project import PROJECT
from tests.support.sample_results import (
    capacity_result,
    comparison,
    gpu_result,
    invalid_result,
    level,
)


def charts(page: str) -> list[ElementTree.Element]:
    found = re.findall(r'<svg class="chart".*?</g></svg>', page, flags=re.S)
    return [ElementTree.fromstring(chart) for chart in found]


def shapes(chart: ElementTree.Element) -> list[str]:
    groups = (group.get("class", "") for group in chart.iter("g"))
    return [name.removeprefix("mark ") for name in groups if name.startswith("mark ")]


def test_the_header_has_the_result_and_the_verdict() -> None:
    page = render(capacity_result())
    assert "<h1>208 live streams, 104 per core</h1>" in page
    assert '<span class="badge">Pass</span>' in page
    assert "p99 chunk latency 473 ms where 560 ms are allowed" in page
    assert "Why not more: p99 chunk latency 894 ms, allowed 560 ms, at 224 streams<" in page


def test_a_gpu_result_counts_per_gpu() -> None:
    assert headline(gpu_result()) == "900 live streams, 900 per GPU"
    assert "GPU utilization against live streams" in render(gpu_result())


def test_an_invalid_run_claims_nothing() -> None:
    page = render(invalid_result())
    assert '<span class="badge">INVALID</span>' in page
    assert "<h1>The load generator was the limit</h1>" in page
    assert "The run says nothing about the server." in page
    assert "per core" not in page
    page = render(replace(invalid_result(), streams=64, streams_per_core=32.0))
    assert "At most 64 streams passed; the capacity" in page
    assert "32 per core" not in page


def test_a_search_that_did_not_end_is_shown_as_far_as_it_went() -> None:
    unfinished = replace(capacity_result(), verdict="invalid", limit=UNFINISHED, streams=64)
    page = render(unfinished)
    assert "<h1>The search did not end</h1>" in page
    assert "with no smaller one failing: 64." in page
    assert "load generator on more cores" not in page


def test_an_unusual_share_of_tokens_that_may_differ_is_shown() -> None:
    result = capacity_result()
    assert "tokens may differ" not in render(result)
    unusual = replace(result, rule=replace(result.rule, allowed_change=0.6))
    assert "(up to 60 % of a stream's tokens may differ)" in render(unusual)


def test_failed_searches_and_levels_are_marked() -> None:
    failed = [level(16, 900.0), level(8, 700.0)]
    search = replace(capacity_result(), verdict="fail", streams=0, levels=failed)
    assert headline(search) == "No number of streams passed"
    page = render(replace(search, kind="level", levels=failed[:1], limit=failed[0].reasons[0]))
    assert '<span class="badge">Fail</span>' in page
    assert "<h1>16 live streams</h1>" in page
    assert "Why: p99 chunk latency 900 ms" in page


def test_every_level_is_a_mark_of_its_own_kind() -> None:
    chart = charts(render(capacity_result()))[0]
    assert sorted(shapes(chart)) == ["cross"] * 2 + ["dot"] * 5 + ["ring"]
    chart = charts(render(invalid_result()))[0]
    assert sorted(shapes(chart)) == ["diamond", "dot", "dot"]


def test_the_details_are_those_of_the_final_hold() -> None:
    assert capacity_result().shown_level.streams == 208
    without = replace(capacity_result(), levels=capacity_result().levels[:-1])
    assert without.shown_level.streams == 192
    assert invalid_result().shown_level.streams == 64


def test_stages_and_conditions_are_there() -> None:
    page = render(capacity_result())
    for stage in capacity_result().levels[-1].stages:
        assert f"<td>{stage.model}</td>" in page
    for text in ("10.4M parameters", "AMD EPYC", "triton 2.51.0", "2026-11-22T13:00:00Z"):
        assert text in page
    assert "<code>python -m loadtest capacity --repository model_repository</code>" in page


def test_the_comparison_is_shown_if_there_is_one() -> None:
    assert "Compared with others" not in render(capacity_result())
    page = render(replace(capacity_result(), baseline=comparison()))
    assert "Compared with others" in page
    assert "PocketSphinx 5.1.1, en-us" in page
    assert "58.1 %" in page


def test_the_page_is_self_contained_and_small() -> None:
    page = render(replace(capacity_result(), baseline=comparison()))
    assert not re.search(r"<script|<link|<img|\bsrc=|https?://", page)
    assert len(page) < 100_000


def test_names_are_escaped() -> None:
    result = capacity_result()
    conditions = replace(result.conditions, checkpoint="<b>demo</b>", command="a && b <x>")
    page = render(replace(result, conditions=conditions, limit="5 < 6"))
    assert "<b>" not in page
    assert "a &amp;&amp; b &lt;x&gt;" in page


def test_a_level_without_metrics_or_timeline_is_shown_too() -> None:
    bare = level(16, 100.0)
    empty = Timeline([], [], [], [], [], [])
    bare = replace(bare, stages=[], server_cpu_cores=None, final_latency=None, timeline=empty)
    bare = replace(bare, wer=None, transcripts_different=3)
    page = render(replace(capacity_result(), levels=[bare, bare]))
    assert "Stages at" not in page
    assert "of 16 under load" in page
    assert "NaN" not in page


def test_the_command_writes_the_page_beside_the_result(tmp_path: Path) -> None:
    capacity_result().write(tmp_path / "run.json")
    done = run("report", str(tmp_path / "run.json"))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "run.html"
    assert "208 live streams" in (tmp_path / "run.html").read_text()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        ("{}", "is not the result of a capacity run: schema: Field required (and "),
        ("# Earshot", "is not the result of a capacity run: Invalid JSON"),
    ],
)
def test_what_is_not_a_result_is_refused(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    done = run("report", str(tmp_path / "run.json"))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run.html").exists()


def test_a_result_without_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one level"):
        render(replace(capacity_result(), levels=[]))


@pytest.mark.parametrize(
    ("low", "high", "about", "expected"),
    [
        (0, 1000, 5, [0, 200, 400, 600, 800, 1000]),
        (0, 2.3, 5, [0, 0.5, 1, 1.5, 2]),
        (0, 59, 6, [0, 10, 20, 30, 40, 50]),
        (0, 0, 4, [0]),
    ],
)
def test_ticks_are_round(low: float, high: float, about: int, expected: list[float]) -> None:
    assert nice_ticks(low, high, about) == expected


def test_points_are_drawn_at_their_values() -> None:
    chart = Chart(
        title="t",
        x_label="x",
        y_label="y",
        x_range=(0, 10),
        y_max=100,
        series=[Series("a", "a", [(0, 0), (5, 50), (6, None), (10, 100)])],
        markers=[Marker(5, 50, "dot", "half"), Marker(10, 250, "cross", "over")],
        rules=[RuleLine(25, "quarter")],
    )
    drawing = str(draw(chart, 160, 172))  # leaves a plot of 100 by 100
    assert 'd="M0.0 100.0L50.0 50.0M100.0 0.0"' in drawing
    assert 'class="mark dot" transform="translate(50.0 50.0)"><title>half</title>' in drawing
    assert 'class="mark cross" transform="translate(100.0 0.0)"' in drawing
    assert "250 ↑" in drawing
    assert 'class="rule" d="M0 75.0H100"' in drawing


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
