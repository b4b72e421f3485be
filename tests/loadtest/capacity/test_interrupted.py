"""A search that is ended from outside leaves the levels that it has held."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from loadtest.result.document import CapacityResult
from loadtest.selftest.fake_service import Truth, fake_service
from tests.support.launcher import wait_for
from tests.support.project import PROJECT


def test_a_search_that_is_terminated_keeps_its_levels(tmp_path: Path) -> None:
    output = tmp_path / "capacity.json"
    with fake_service(Truth(chunk_ms=160, service_ms=1.0)) as url:
        command = [sys.executable, "-m", "loadtest", "capacity", "--url", url]
        command += ["--first-streams", "1", "--growth", "1.1", "--short-hold-s", "1"]
        command += ["--speech", str(PROJECT / "recordings" / "jfk"), "--output", str(output)]
        with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL) as search:
            wait_for(output.exists, timeout_s=300)
            search.terminate()
    result = CapacityResult.from_json(output)
    assert (result.verdict, result.unfinished) == ("invalid", True)
    assert result.levels
    assert result.streams in (0, max(level.streams for level in result.levels))


@pytest.mark.parametrize("command", ["hold", "soak"])
def test_ctrl_c_is_one_line(tmp_path: Path, command: str) -> None:
    with fake_service(Truth(chunk_ms=160, service_ms=1.0)) as url:
        arguments = [command, "--streams", "2", "--hold-s", "60", "--url", url]
        arguments += ["--speech", str(PROJECT / "recordings" / "jfk")]
        arguments += ["--output", str(tmp_path / "result.json")]
        running = subprocess.Popen(
            [sys.executable, "-m", "loadtest", *arguments],
            cwd=PROJECT,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: _is_under_load(running.pid, url), timeout_s=300)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=300)
    assert running.returncode == 130
    assert errors.rstrip().endswith("interrupted")
    assert "Traceback" not in errors
    assert "KeyboardInterrupt" not in errors


def _is_under_load(pid: int, url: str) -> bool:
    """Tell whether a process that the command has started streams to the service."""
    port = int(url.rpartition(":")[2])
    return any(
        connection.raddr and connection.raddr.port == port
        for child in psutil.Process(pid).children(recursive=True)
        for connection in child.net_connections()
    )


@pytest.mark.parametrize("command", ["hold", "capacity", "soak"])
def test_an_output_that_cannot_be_written_is_found_first(tmp_path: Path, command: str) -> None:
    arguments = [command, "--url", "127.0.0.1:1", "--output", str(tmp_path)]
    arguments += ["--streams", "2"] if command != "capacity" else []
    result = subprocess.run(
        [sys.executable, "-m", "loadtest", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    assert "is a folder: expected the path of a file" in result.stderr
    assert "Traceback" not in result.stderr
