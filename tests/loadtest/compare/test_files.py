"""Whole files from several processes, to a real Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.compare.files import FilesDone, summary
from tests.support.project import PROJECT, ExportedOffline


def test_the_rate_counts_the_files_of_all_processes() -> None:
    found = summary([FilesDone(30.0, [10.0, 30.0]), FilesDone(10.0, [20.0])], seconds=5.0)
    assert found == {
        "audio_s_per_s": 8.0,
        "seconds": 5.0,
        "files": 3,
        "mean_file_s": 13.33,
        "answer_p50_ms": 20.0,
        "answer_p99_ms": 30.0,
    }


def test_no_answer_is_no_result() -> None:
    with pytest.raises(ValueError, match="no file was answered in time"):
        summary([FilesDone(0.0, [])], seconds=5.0)


@pytest.mark.slow
@pytest.mark.triton
def test_two_processes_send_files(exported_offline: ExportedOffline, tmp_path: Path) -> None:
    output = tmp_path / "files.json"
    command = [sys.executable, "-m", "loadtest", "files", "--processes", "2", "--seconds", "4"]
    command += ["--repository", str(exported_offline("ctc")), "--output", str(output)]
    subprocess.run([*command, "--files-at-once", "8"], cwd=PROJECT, check=True, timeout=240)
    document = json.loads(output.read_text())
    assert document["audio_s_per_s"] > 0
    assert document["processes"] == 2
    assert document["rows_per_run"]["encoder_offline"] >= 1
    assert document["answer_p50_ms"] <= document["answer_p99_ms"]
