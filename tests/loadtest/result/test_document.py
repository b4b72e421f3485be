"""The document of a capacity run is read back as written; others are refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.result.document import (
    SCHEMA,
    CapacityResult,
    Conditions,
    Latency,
    Level,
    Rule,
    StageUse,
    Timeline,
)

LATENCY = Latency(p50_ms=20.5, p95_ms=40.0, p99_ms=60.0, max_ms=61.0, count=100)
LEVEL = Level(
    streams=8,
    hold_s=10.0,
    final=True,
    passes=True,
    valid=True,
    reasons=[],
    chunk_latency=LATENCY,
    final_latency=None,
    lateness=LATENCY,
    late_share=0.0,
    keep_up_share_min=1.0,
    failures={"ServerBusy": 2},
    transcripts_compared=8,
    transcripts_different=0,
    wer=None,
    timeline=Timeline([0.0], [8], [20.0], [40.0], [60.0], [1.0]),
    stages=[StageUse("encoder", 4.0, 1.0, 8.0, 1000, None)],
    server_cpu_cores=None,
    generator_cpu_cores=0.4,
    gpu_utilization=None,
    gpu_memory_bytes=None,
)
RESULT = CapacityResult(
    schema=SCHEMA,
    kind="capacity",
    verdict="pass",
    streams=8,
    streams_per_gpu=None,
    streams_per_core=4.0,
    limit="p99 chunk latency 612 ms, allowed 560 ms, at 9 streams",
    rule=Rule(560.0, 60.0, 0.99, 10.0, 0.01),
    levels=[LEVEL],
    conditions=Conditions(
        checkpoint="demo",
        runtime="onnxruntime",
        precision="fp32",
        chunk_ms=560,
        parameters=None,
        cpu_model="a CPU",
        cpu_cores=2,
        gpu_model=None,
        gpu_count=0,
        server_location="same machine",
        generator_processes=1,
        versions={"triton": "2.51.0"},
        speech="recordings",
        command="make capacity",
        started_at="2026-11-22T13:00:00Z",
    ),
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "result.json"
    RESULT.write(path)
    assert CapacityResult.from_json(path) == RESULT
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_a_document_from_before_the_allowed_change_is_read(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    RESULT.write(path)
    document = json.loads(path.read_text())
    del document["rule"]["allowed_change"]
    path.write_text(json.dumps(document))
    assert CapacityResult.from_json(path) == RESULT
    assert RESULT.unusual_allowed_change is None


def test_an_allowed_change_is_unusual_if_it_is_not_the_default() -> None:
    for allowed, unusual in ((0.0, None), (0.6, 0.6)):
        result = replace(RESULT, rule=replace(RESULT.rule, allowed_change=allowed))
        assert result.unusual_allowed_change == unusual


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    RESULT.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
    with pytest.raises(ValueError, match=r"expected schema 1 in .*, got 2"):
        CapacityResult.from_json(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    document = json.loads(json.dumps({"schema": SCHEMA, "kind": "capacity"}))
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="verdict"):
        CapacityResult.from_json(path)
