"""A search that is ended from outside leaves the levels that it has held."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from loadtest.result.document import CapacityResult
from loadtest.selftest.fake_service import Truth, fake_service
from tests.support.project import PROJECT


def test_a_search_that_is_terminated_keeps_its_levels(tmp_path: Path) -> None:
    output = tmp_path / "capacity.json"
    with fake_service(Truth(chunk_ms=160, service_ms=1.0)) as url:
        command = [sys.executable, "-m", "loadtest", "capacity", "--url", url]
        command += ["--first-streams", "1", "--growth", "1.1", "--short-hold-s", "1"]
        command += ["--speech", str(PROJECT / "recordings" / "jfk"), "--output", str(output)]
        with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL) as search:
            _wait_for(output)
            search.terminate()
    result = CapacityResult.from_json(output)
    assert (result.verdict, result.unfinished) == ("invalid", True)
    assert result.levels
    assert result.streams in (0, max(level.streams for level in result.levels))


def _wait_for(path: Path) -> None:
    give_up_s = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < give_up_s
        time.sleep(0.1)
