"""Figures are compared with those of perf_analyzer, and a difference is noticed."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earshot import ServerInfo

from loadtest.compare import perf_analyzer
from loadtest.compare.agreement import compare
from loadtest.compare.perf_analyzer import (
    LoopFigures,
    PerfAnalyzer,
    PerfAnalyzerFailed,
    read_export,
)
from tests.support.project import PROJECT

INFO = ServerInfo("", "", "", "", "", 16_000, 20, 320, 100, 10, 8, 1_000)


def export(latencies_ms: list[float]) -> dict[str, Any]:
    requests = [
        {"timestamp": 10**9, "response_timestamps": [10**9 + round(latency * 1e6)]}
        for latency in latencies_ms
    ]
    return {"experiments": [{"requests": requests, "window_boundaries": [0, 10**9, 4 * 10**9]}]}


def test_raw_samples_become_throughput_and_percentiles() -> None:
    measured = read_export(export([float(latency) for latency in range(1, 101)]))
    assert measured.chunks_per_s == 25.0
    assert measured.p50_ms == pytest.approx(50.5)
    assert measured.p99_ms == pytest.approx(99.01)


def test_no_answer_is_no_measurement() -> None:
    empty = export([1.0])
    empty["experiments"][0]["requests"][0]["response_timestamps"] = []
    with pytest.raises(PerfAnalyzerFailed, match="no answer"):
        read_export(empty)


def test_the_requests_are_those_of_the_client() -> None:
    samples = np.arange(1, 601, dtype=np.float32) / 1000
    requests = perf_analyzer._requests(INFO, samples)
    assert [request["AUDIO_LENGTH"]["content"] for request in requests] == [[320], [320], [60]]
    chunks = [np.frombuffer(base64.b64decode(each["AUDIO"]["b64"]), "<f4") for each in requests]
    wire = np.concatenate(chunks)
    assert not wire[:100].any()
    assert np.array_equal(wire[100:700], samples)
    assert not wire[700:].any()


def test_medians_are_compared() -> None:
    theirs = [
        LoopFigures(100.0, 20.0, 40.0),
        LoopFigures(90.0, 22.0, 41.0),
        LoopFigures(10.0, 99.0, 99.0),
    ]
    ours = [
        LoopFigures(99.0, 21.0, 50.0),
        LoopFigures(99.0, 23.0, 46.0),
        LoopFigures(95.0, 23.1, 45.0),
    ]
    throughput, p50, p99 = compare("closed", 4, theirs, ours)
    assert (throughput.difference, throughput.agrees) == (pytest.approx(0.1), True)
    assert (p50.difference, p50.agrees) == (pytest.approx(23 / 22 - 1, abs=1e-4), True)
    assert (p99.difference, p99.agrees) == (pytest.approx(46 / 41 - 1, abs=1e-4), False)


def test_a_tool_that_fails_is_reported_with_its_output(tmp_path: Path) -> None:
    binary = tmp_path / "perf_analyzer"
    binary.write_text("#!/bin/sh\necho no such model >&2\nexit 99\n")
    binary.chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    tool = PerfAnalyzer(binary, folder, "127.0.0.1:1", "asr_streaming")
    with pytest.raises(PerfAnalyzerFailed, match="ended with 99: no such model"):
        tool.closed_loop(1, 3.0)
    with pytest.raises(PerfAnalyzerFailed, match="ended with 99"):
        tool.open_loop([0.5, 0.1], 0.56, 3.0)
    gaps_us = [int(line) for line in (folder / "intervals.txt").read_text().split()]
    assert gaps_us == [400_000, 160_000]


def test_a_missing_binary_ends_with_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "agreement", "--perf-analyzer", "/nowhere"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "/nowhere" in done.stderr
