"""SIGTERM drains a real server: not ready, no new streams, the open ones go on to their end."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.launch import running
from tests.support.launcher import ROOT, Started, process_group, started, stop_process, wait_for
from tests.support.toy_streams import Stream, constant

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers leave their records where no other server is found."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_open_streams_go_on_after_sigterm_and_new_ones_are_refused(toy_repository: Path) -> None:
    with started(toy_repository) as server, grpcclient.InferenceServerClient(server.url) as client:
        streams = [Stream(client) for _ in range(5)]
        for stream in streams:
            stream.send(constant(1.0)).result(timeout=60)
        server.launcher.send_signal(signal.SIGTERM)
        wait_for(lambda: not _is_ready(client))
        with pytest.raises(InferenceServerException, match="Server is stopping"):
            Stream(client).send(constant(1.0)).result(timeout=60)
        assert all(s.send(constant(1.0)).result(timeout=60)["SUM"] == 16.0 for s in streams)
        assert server.launcher.poll() is None
        for stream in streams:
            stream.finish()
        _, messages = server.launcher.communicate(timeout=300)
        assert server.launcher.returncode == 0
        assert "drained: all streams have ended" in messages
        wait_for(lambda: not process_group(server.pid))


def test_a_drain_has_a_deadline(toy_repository: Path) -> None:
    with started(toy_repository, "--drain-s", "1") as server, _open_stream(server):
        server.launcher.send_signal(signal.SIGTERM)
        _, messages = server.launcher.communicate(timeout=300)
        assert server.launcher.returncode == 0
        assert "still open after 1 s" in messages


def test_a_server_that_has_no_work_and_does_not_end_is_killed(
    toy_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.launch.EXIT_S", 2)
    with running(toy_repository) as triton:
        stop_process(triton.process.pid)
        assert triton.drain(300)
        assert triton.process.wait(60) == -signal.SIGKILL


def test_a_second_sigterm_stops_at_once(toy_repository: Path) -> None:
    with started(toy_repository, "--drain-s", "600") as server, _open_stream(server) as client:
        server.launcher.send_signal(signal.SIGTERM)
        wait_for(lambda: not _is_ready(client))
        server.launcher.send_signal(signal.SIGTERM)
        assert server.launcher.wait(timeout=300) == 0
        wait_for(lambda: not process_group(server.pid))


def test_the_command_drains_the_server_of_a_port(toy_repository: Path) -> None:
    with started(toy_repository) as server:
        port = server.url.rpartition(":")[2]
        assert _drain(port).returncode == 0
        assert server.launcher.wait(timeout=300) == 0
        again = _drain(port)
        assert again.returncode == 2
        assert "no `python -m server` of this machine serves on port" in again.stderr


def _drain(port: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "drain", "--grpc-port", port]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def _open_stream(server: Started) -> grpcclient.InferenceServerClient:
    client = grpcclient.InferenceServerClient(server.url)
    Stream(client).send(constant(1.0)).result(timeout=60)
    return client


def _is_ready(client: grpcclient.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready(client_timeout=60))
    except InferenceServerException:
        return False
