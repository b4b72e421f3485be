"""The page of a GPU shows what its streams cost, and the plot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.gpu.page import held_row, write_page
from tests.support.sample_results import gpu_result


def test_streams_that_were_held_have_a_cost() -> None:
    row = held_row("capacity", gpu_result(), price_per_hour=2.25, instances=1)
    assert row.held is not None
    assert (row.held.streams, row.published) == (900, 900)
    assert row.cost == pytest.approx(0.0025)
    levels = [replace(level, final=False) for level in gpu_result().levels]
    assert held_row("short", replace(gpu_result(), levels=levels), 2.25, instances=1).cost is None


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "capacity.json")
    output = tmp_path / "page.html"
    command = ["gpu-page", str(tmp_path / "capacity.json"), "--output", str(output)]
    done = CliRunner().invoke(app, [*command, "--price-per-hour", "2.25", "--instances", "1"])
    assert done.exit_code == 0, done.output
    page = output.read_text()
    assert "0.00250" in page
    assert "<svg" in page
    assert "one NVIDIA H100" in page


def test_results_of_different_gpus_are_refused(tmp_path: Path) -> None:
    other = replace(gpu_result().conditions, gpu_model="NVIDIA L4")
    gpu_result().write(tmp_path / "a.json")
    replace(gpu_result(), conditions=other).write(tmp_path / "b.json")
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    with pytest.raises(ValueError, match="expected results of one GPU"):
        write_page(paths, 2.5, 1, tmp_path / "page.html")
