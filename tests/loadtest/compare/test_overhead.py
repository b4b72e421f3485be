"""The overhead report on a real Triton: every part is there and adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.generations import copy_as
from tests.support.project import PROJECT, Exported


@pytest.mark.slow
@pytest.mark.triton
def test_report_names_each_process_and_counts_every_chunk(
    exported: Exported, tmp_path: Path
) -> None:
    """Report one recognizer, while another one on the server is idle."""
    copy_as("clinic_v2", exported(320), tmp_path)
    copy_as("hotel", exported(320), tmp_path)
    command = [sys.executable, "-m", "loadtest", "overhead", "--repository", str(tmp_path)]
    command += ["--model", "clinic"]
    result = subprocess.run(
        [*command, "--streams", "8", "--seconds", "2", "--json"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    used = report["service"]["cpu_ms_per_chunk"]
    assert set(used) == {"triton", "feature_extractor", "encoder", "decoder"}
    assert report["chunks"] > 8
    # The CPU time counted cannot exceed what the machine had, nor be next to nothing.
    busy_s = sum(used.values()) * report["chunks"] / 1000
    assert 0.05 * report["seconds"] < busy_s <= 1.2 * report["cores"] * report["seconds"]
    assert report["mean_batch"]["encoder"] > 1
    assert 0 < report["ratio"] < 1.5
