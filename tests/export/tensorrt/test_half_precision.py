"""Half precision of the demo checkpoint over minutes of real speech: as good as recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import DEMO_CHECKPOINT, PROJECT

RECORD = PROJECT / "loadtest" / "results" / "half_precision_demo.json"
MARGIN = 0.02
"""Allowance over the record for other speech and another machine."""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_as_good_as_recorded(precision: str, speech_folder: Path) -> None:
    command = [sys.executable, "-m", "export.tensorrt", str(DEMO_CHECKPOINT)]
    command += [f"--precision={precision}", f"--speech={speech_folder}"]
    result = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=3000, check=True
    )
    measured = json.loads(result.stdout)
    recorded = json.loads(RECORD.read_text())[precision]
    assert measured["audio_seconds"] > 120
    assert measured["token_difference"] <= recorded["token_difference"] + MARGIN
    assert measured["state_bytes_per_stream"] == recorded["state_bytes_per_stream"]
