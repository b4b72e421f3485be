"""The cost of heads on a real Triton: recognizers take turns, and every process is counted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.checkpoint import load_checkpoint
from export.heads.export import HeadOptions, export_heads
from tests.support.heads import write_random_heads
from tests.support.project import PROJECT, Exported


@pytest.mark.slow
@pytest.mark.triton
def test_recognizers_are_compared_in_turn(
    exported: Exported, random_checkpoint: Path, tmp_path: Path
) -> None:
    repository = shutil.copytree(exported(320), tmp_path / "models")
    heads = write_random_heads(tmp_path / "heads", random_checkpoint, width=32, lookahead=3)
    checkpoint = load_checkpoint(str(random_checkpoint))
    for name, only in {"one": ("size",), "both": ()}.items():
        options = HeadOptions((heads,), str(random_checkpoint), name, "", repository, only)
        export_heads(options, checkpoint, lambda step: None)
    command = [sys.executable, "-m", "loadtest", "heads", "--repository", str(repository)]
    command += ["--model", "one", "--model", "both", "--streams", "4", "--hold-s", "2"]
    done = subprocess.run(
        [*command, "--json", "--output", str(tmp_path / "heads.json")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [(r["recognizer"], r["heads"], r["labels"]) for r in result["recognizers"]] == [
        ("default", 0, 0),
        ("one", 1, 3),
        ("both", 2, 5),
    ]
    for recognizer in result["recognizers"]:
        assert {"triton", "encoder", "one_heads"} <= set(recognizer["cpu_ms_per_stream_s"])
        # Two turns of two seconds, four streams, three chunks a second, and the warm-up.
        assert 2 * 2 * 4 * 3 <= recognizer["chunks"] <= 2 * 6 * 4 * 3.2
        assert recognizer["streams_per_core"] > 0
