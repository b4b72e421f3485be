"""Starting and stopping a real Triton: nothing remains, and every error says what to do."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from server.errors import TritonDied
from server.launch import running
from server.workspace import workspace
from tests.support.launcher import ROOT, children, process_group, served, wait_for
from tests.support.metrics import metric
from tests.support.toy_streams import Stream, constant

SHARED_MEMORY = Path("/dev/shm")

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers_end: None) -> None:
    """Servers that die keep their log: not in the machine's own temporary folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_stop_leaves_nothing(toy_repository: Path) -> None:
    progress: list[tuple[int, int, list[str]]] = []
    with running(toy_repository, progress=lambda *counts: progress.append(counts)) as triton:
        pid, folder = triton.process.pid, triton.log_path.parent
        assert len(process_group(pid)) == 3  # tritonserver and a process per stage
        assert list(SHARED_MEMORY.glob(f"{folder.name}*"))
    assert progress[-1] == (3, 3, [])
    wait_for(lambda: not process_group(pid))
    assert not folder.exists()
    assert not list(SHARED_MEMORY.glob(f"{folder.name}*"))


def test_a_normal_stop_crashes_no_stage(
    toy_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.process._STOP_TIMEOUT_S", 300)
    with running(toy_repository) as triton, InferenceServerClient(triton.grpc_url) as client:
        group = process_group(triton.process.pid)
        Stream(client).send(constant(1.0), end=True).result(timeout=60)
        wait_for(lambda: metric(triton, "earshot_live_streams", "summer") == 0)
    assert triton.process.exit_code == 0
    kernel_log = subprocess.run(["dmesg"], capture_output=True, text=True)
    if kernel_log.returncode:
        pytest.skip("the kernel's log, which lists crashes, cannot be read")
    crashed = re.findall(r"\[(\d+)\]: segfault", kernel_log.stdout)
    assert not {int(pid) for pid in crashed} & set(group)


def test_a_proxy_does_not_hide_the_server(
    toy_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dead:
        port = dead.getsockname()[1]
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
    for variable in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with running(toy_repository):
        pass


def test_a_server_that_aborts_while_it_starts_is_started_again(toy_repository: Path) -> None:
    others, aborted = set(children(os.getpid())), list[int]()

    def abort_once(*_: object) -> None:
        if not aborted:
            aborted.extend(set(children(os.getpid())) - others)
            os.kill(aborted[0], signal.SIGABRT)

    with running(toy_repository, progress=abort_once) as triton:
        assert [triton.process.pid] != aborted
        assert len(list(triton.heartbeats.glob("*.json"))) == 2
        with InferenceServerClient(triton.grpc_url) as client:
            Stream(client).send(constant(1.0), end=True).result(timeout=60)


def test_a_server_that_aborts_again_is_reported(toy_repository: Path) -> None:
    others = set(children(os.getpid()))

    def abort(*_: object) -> None:
        for pid in set(children(os.getpid())) - others:
            os.kill(pid, signal.SIGABRT)

    with pytest.raises(TritonDied, match="ended with -6"), running(toy_repository, progress=abort):
        pass


def test_config_and_graph_that_disagree_are_named(toy_repository: Path) -> None:
    config = toy_repository / "summer" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32 dims: [ 1 ]", "TYPE_FP32 dims: [ 2 ]"))
    with pytest.raises(TritonDied) as death, running(toy_repository):
        pass
    cause = str(death.value).splitlines()[1]
    assert "summer: config and model.onnx disagree on output SUM" in cause
    assert "the config has float32 [2], the graph has float32 [1]; export the model again" in cause
    assert "Traceback" not in cause


def test_a_server_that_dies_under_way_is_reported_with_its_log(toy_repository: Path) -> None:
    pid = 0
    with (
        pytest.raises(TritonDied, match="Started GRPCInferenceService") as death,
        running(toy_repository) as triton,
    ):
        pid = triton.process.pid
        os.kill(pid, signal.SIGKILL)
        triton.process.wait()
        raise ConnectionError("what a client would say")
    assert f"ended with {-signal.SIGKILL}" in str(death.value)
    assert isinstance(death.value.__cause__, ConnectionError)
    assert pid
    wait_for(lambda: not process_group(pid))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_cleanly(toy_repository: Path, how: signal.Signals) -> None:
    with served(toy_repository) as (launcher, pid):
        launcher.send_signal(how)
        assert launcher.wait(timeout=300) == 0
        wait_for(lambda: not process_group(pid))


def test_a_killed_launcher_takes_the_server_with_it(toy_repository: Path, tmp_path: Path) -> None:
    with served(toy_repository) as (launcher, pid):
        launcher.kill()
        wait_for(lambda: not process_group(pid))
    [left] = tmp_path.glob("earshot-*")
    region = SHARED_MEMORY / f"{left.name}-left"
    region.touch()
    with workspace():  # the next launcher's
        assert not left.exists()
        assert not region.exists()


def test_a_dead_server_exits_with_1(toy_repository: Path) -> None:
    with served(toy_repository) as (launcher, pid):
        os.kill(pid, signal.SIGKILL)
        _, errors = launcher.communicate(timeout=300)
        assert launcher.returncode == 1
        assert "error: tritonserver ended with -9" in errors


def test_users_mistakes_exit_with_2(toy_repository: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        _expect_error(["--repository", str(toy_repository), "--grpc-port", port], "cannot listen")
    _expect_error(["--repository", str(toy_repository), "--grpc-port", "99999"], "equal to 65535")
    _expect_error(["--repository", str(toy_repository), "--host", "::1"], "give an IPv4 address")
    for path in (str(tmp_path), "/dev/full"):
        arguments = ["--repository", str(toy_repository), "--log-file", path]
        _expect_error(arguments, "expected a file, which is also read")
    _expect_error(["--repository", str(tmp_path / "nowhere")], "no model repository at")
    (toy_repository / "summer" / "1" / "model.onnx").unlink()
    _expect_error(["--repository", str(toy_repository)], "python -m export")


def _expect_error(arguments: list[str], message: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
