"""A short soak of a real server, with its document and its page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.soak.document import SoakResult
from tests.support.project import PROJECT, Exported, Served

SPEECH = PROJECT / "recordings" / "jfk"


@pytest.mark.triton
def test_a_short_soak(exported: Exported, served: Served, tmp_path: Path) -> None:
    triton = served(exported(320))
    output = tmp_path / "soak.json"
    command = [sys.executable, "-m", "loadtest", "soak", "--streams", "8", "--hold-s", "8"]
    command += ["--url", triton.grpc_url, "--metrics-url", triton.metrics_url, "--every-s", "1"]
    command += ["--speech", str(SPEECH), "--output", str(output)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("PASS: 8 streams for 8 s")
    result = SoakResult.from_json(output)
    assert 0 < result.streams.finished + result.streams.closed <= result.chunk_latency.count
    assert result.streams.vanished >= 1
    assert result.transcripts_compared > 0
    start, end = result.readings[0], result.readings[-1]
    assert (start.slots, end.slots) == (0, 0)
    assert max(reading.slots or 0 for reading in result.readings) >= 8
    for reading in (start, end):
        assert reading.rss_bytes and reading.shm_bytes and reading.file_descriptors
    page = output.with_suffix(".html").read_text()
    assert "8 live streams for 8 s" in page
    assert "Resident memory" in page


@pytest.mark.triton
def test_more_streams_than_slots_is_a_users_mistake(exported: Exported, served: Served) -> None:
    triton = served(exported(320))
    command = [sys.executable, "-m", "loadtest", "soak", "--streams", "250"]
    command += ["--url", triton.grpc_url]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "slots; 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
