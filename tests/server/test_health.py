"""A stage that is dead, stands still or fails ends a real server, with its cause."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.heartbeats import standstill
from server.launch import running
from server.stages import StageWatch
from tests.support.gated_repository import write_gated_repository
from tests.support.launcher import ROOT, Started, children, started, stop_process, wait_for
from tests.support.toy_repository import (
    MAX_ABS,
    damaged_summer_graph,
    hanging_summer_graph,
    save,
)
from tests.support.toy_streams import Stream, constant

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers leave their records where no other server is found."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (signal.SIGKILL, "the process of summer_0_0 \\({pid}\\) was ended by SIGKILL"),
        # Its heartbeat or the chunk of silence may show it first.
        (
            signal.SIGSTOP,
            "(the process of summer_0_0 \\({pid}\\) stands still|toy_streaming does not)",
        ),
    ],
)
def test_a_dead_or_frozen_stage_ends_the_server(
    toy_repository: Path, how: signal.Signals, message: str
) -> None:
    with started(toy_repository) as server:
        pid = _stage(server, "summer_0_0")
        os.kill(pid, how)
        _, errors = server.launcher.communicate(timeout=300)
        assert server.launcher.returncode == 1
        assert re.search(f"error: {message.format(pid=pid)}", errors)


def test_health_is_an_answer_of_every_stage(toy_repository: Path) -> None:
    with started(toy_repository) as server:
        assert _health(server).returncode == 0
        stop_process(server.launcher.pid)  # or it ends the server before it is asked
        os.kill(_stage(server, "accumulator_0_0"), signal.SIGKILL)
        check = _health(server)
        os.kill(server.launcher.pid, signal.SIGCONT)
        assert check.returncode == 1
        assert "toy_streaming does not answer a chunk of silence" in check.stderr


def test_a_damaged_model_is_refused_before_the_server_is_ready(toy_repository: Path) -> None:
    save(damaged_summer_graph(), toy_repository / "summer" / "1" / "model.onnx")
    command = [sys.executable, "-m", "server", "--repository", str(toy_repository)]
    command += ["--grpc-port", "0", "--metrics-port", "0"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 1
    assert refused.stdout == ""  # it was never ready
    assert "error: toy_streaming does not answer a chunk of silence" in refused.stderr
    assert "SUM holds NaN or infinity" in refused.stderr
    assert "nothing is served: export toy_streaming again, or remove its folder" in refused.stderr


def test_the_log_tells_whose_chunk_failed(toy_repository: Path, tmp_path: Path) -> None:
    save(damaged_summer_graph(), toy_repository / "summer" / "1" / "model.onnx")
    log = tmp_path / "triton.log"
    with (
        running(toy_repository, log_path=log) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        with pytest.raises(InferenceServerException, match="SUM holds NaN or infinity"):
            Stream(client, tag="call-17").send(constant(1.0)).result(timeout=60)
        assert "summer: stream call-17: SUM holds NaN or infinity" in log.read_text()


def test_a_stage_that_begins_to_fail_ends_the_server(tmp_path: Path) -> None:
    gate = write_gated_repository(tmp_path)
    with started(gate.repository) as server:
        gate.set("broken")
        _, errors = server.launcher.communicate(timeout=300)
        assert server.launcher.returncode == 1
        assert "error: toy_streaming does not answer a chunk of silence" in errors
        assert "the gate is broken; the server ends" in errors


def test_a_stage_that_hangs_in_a_batch_ends_the_server(toy_repository: Path) -> None:
    save(hanging_summer_graph(), toy_repository / "summer" / "1" / "model.onnx")
    with started(toy_repository) as server:
        with grpcclient.InferenceServerClient(server.url) as client:
            stream = Stream(client)
            assert stream.send(constant(1.0)).result(timeout=60)["SUM"] == 8
            stream.send(constant(MAX_ABS))
            _, errors = server.launcher.communicate(timeout=300)
        assert server.launcher.returncode == 1
        assert re.search(r"summer_0_0 \(\d+\) hangs in a batch that takes longer than \d", errors)


def test_a_launcher_that_was_held_up_judges_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    monkeypatch.setattr("server.stages.time.monotonic", lambda: now_s[0])
    with subprocess.Popen(["sleep", "600"]) as stage:
        watch = StageWatch(os.getpid(), tmp_path)
        (tmp_path / "encoder_0_0.json").write_text(
            f'{{"instance": "encoder_0_0", "pid": {stage.pid}, "beat_s": 0.0, '
            '"busy_since_s": null, "patience_s": 1.5}'
        )
        seen: list[str | None] = []
        for now_s[0] in (0.25, 5.0, 5.25, 5.5):
            seen.append(watch.look())
        stage.kill()
    assert seen == [None, None, None, f"the process of encoder_0_0 ({stage.pid}) stands still"]


@pytest.mark.parametrize(
    ("end", "seen"),
    [("sys.exit(0)", None), ("os.kill(os.getpid(), 9)", "was ended by SIGKILL")],
)
def test_the_process_of_an_engine_may_end_by_itself_without_an_error(
    tmp_path: Path, end: str, seen: str | None
) -> None:
    engine = f"import os, sys; sys.stdin.read(1); {end}"
    stage = f"""
import subprocess, sys, time
engine = subprocess.Popen([sys.executable, "-c", "{engine}"], stdin=subprocess.PIPE)
print(engine.pid, flush=True)
sys.stdin.read(1)
engine.stdin.close()
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", stage], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        pid = int(process.stdout.readline())
        beat = {"instance": "recognizer_engine", "pid": pid, "beat_s": time.monotonic() + 60}
        (tmp_path / "engine.json").write_text(json.dumps(beat | {"busy_since_s": None}))
        watch = StageWatch(os.getpid(), tmp_path)
        process.stdin.close()
        wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
        found = [watch.look() for _ in range(10)]
        process.kill()
    assert found[-1] == (seen and f"the process of recognizer_engine ({pid}) {seen}")


def test_a_process_that_does_nothing_stands_still_sooner_than_a_busy_one() -> None:
    with (
        subprocess.Popen(["sleep", "600"]) as idle,
        subprocess.Popen(["yes"], stdout=subprocess.DEVNULL) as busy,
    ):
        beats = [
            {"pid": process.pid, "beat_s": 0.0, "busy_since_s": None, "patience_s": 5.0}
            for process in (idle, busy)
        ]
        # A process that has just begun works for a moment.
        wait_for(lambda: standstill(beats[0], now_s=3.0) == "stands still")
        found = [[standstill(beat, now_s) for beat in beats] for now_s in (1.0, 3.0, 6.0)]
        idle.kill()
        busy.kill()
    assert found == [[None, None], ["stands still", None], ["stands still", "stands still"]]


def _stage(server: Started, instance: str) -> int:
    for pid in children(server.pid):
        if instance in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            return pid
    raise AssertionError(f"no process of {instance}")


def _health(server: Started) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "health", "--grpc-port", server.url.split(":")[1]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_health_check_of_the_first_release_does_not_succeed_by_doing_nothing() -> None:
    command = [sys.executable, "-m", "server.health", "--url", "localhost:8001"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python -m server health" in done.stderr
