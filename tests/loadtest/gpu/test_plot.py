"""The picture of a GPU's levels shows what was held to the end, and nothing else as held."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.gpu.plot import held_streams
from loadtest.result.document import CapacityResult, Level
from tests.support.sample_results import gpu_result, level


def result(chunk_ms: int, *levels: Level) -> CapacityResult:
    conditions = replace(gpu_result().conditions, chunk_ms=chunk_ms)
    return replace(gpu_result(), levels=list(levels), conditions=conditions)


def final(streams: int, passes: bool = True) -> Level:
    return replace(level(streams, 100), final=True, passes=passes)


def test_only_a_final_hold_that_passed_counts_and_the_largest_of_a_chunk() -> None:
    short = replace(level(500, 100), final=False)
    results = [
        result(560, short, final(400), final(450, passes=False)),
        result(560, final(300)),
        result(1120, short, final(600, passes=False)),
        result(320, replace(final(700), valid=False)),
    ]
    assert {chunk: held.streams for chunk, held in held_streams(results).items()} == {560: 400}


def test_the_command_draws_the_documents(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "capacity.json")
    picture = tmp_path / "docs" / "levels.svg"
    command = ["gpu-plot", str(tmp_path / "capacity.json"), "--output", str(picture)]
    drawn = CliRunner().invoke(app, command)
    assert drawn.exit_code == 0, drawn.output
    assert "</svg>" in picture.read_text()


def test_a_document_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text("{}")
    command = ["gpu-plot", str(tmp_path / "tokens.json"), "--output", str(tmp_path / "levels.svg")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "is not the result of a capacity run" in refused.stderr
