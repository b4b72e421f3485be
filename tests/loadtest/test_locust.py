"""The locustfile works in every mode of Locust, and so do the commands that use it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.result.document import CapacityResult, Verdict, exit_code
from loadtest.selftest.fake_service import Truth, fake_service
from loadtest.service.server import free_port
from tests.support.project import PROJECT

SPEECH = PROJECT / "recordings" / "ljspeech"
LOCUST = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py"]
MODEL = ["--model", "clinic_v2"]
SHORT = ["--speech", str(SPEECH), "--talk-s", "2", *MODEL]
_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Sustains 40 streams of 160 ms chunks; its only model has a name."""
    with fake_service(Truth(chunk_ms=160, service_ms=4.0, name=MODEL[1])) as url:
        yield url


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)


def headless(service: str, *options: str, streams: int = 6, seconds: int = 10) -> list[str]:
    users = ["-u", str(streams), "-r", str(streams), "-t", f"{seconds}s"]
    return [*LOCUST, *SHORT, "--host", service, "--headless", *users, *options]


def test_headless_on_two_processes_ends_with_a_verdict_from_raw_samples(service: str) -> None:
    result = run(headless(service, "--processes", "2"))
    streams, verdict = level_in(result.stdout)
    assert streams == 6
    # On a busy machine the load generator or the service may be late.
    assert result.returncode == exit_code(verdict), result.stdout


def level_in(output: str) -> tuple[int, Verdict]:
    """Return the streams and the verdict of the one level in the output."""
    [found] = re.findall(r"^ *(\d+) streams .* (PASS|FAIL|INVALID)$", output, flags=re.M)
    return int(found[0]), found[1].lower()


def test_headless_fails_when_the_service_cannot_keep_up(service: str) -> None:
    # On a busy machine it takes seconds until all streams are there.
    result = run(headless(service, streams=80, seconds=12))
    assert "allowed 160 ms" in result.stdout
    assert result.returncode in (1, 3)


def test_master_and_worker_are_separate_processes(service: str) -> None:
    port = ["--master-port", str(free_port())]
    worker = [*LOCUST, *SHORT, "--worker", "--master-host", "127.0.0.1", *port]
    master = headless(
        service,
        "--master",
        "--expect-workers",
        "2",
        *[option.replace("--master-port", "--master-bind-port") for option in port],
    )
    workers = [subprocess.Popen(worker, cwd=PROJECT, stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        result = run(master)
    finally:
        for process in workers:
            process.wait(300)
    streams, verdict = level_in(result.stdout)
    assert streams == 6
    assert result.returncode == exit_code(verdict), result.stdout


def test_the_web_ui_has_streams_chunk_and_final_latency_and_lateness(service: str) -> None:
    port = free_port()
    web = ["--web-host", "127.0.0.1", "--web-port", str(port), "--autostart", "--autoquit", "1"]
    command = headless(service, *web, seconds=300)  # it is ended as soon as all has been seen
    command.remove("--headless")
    with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL) as process:
        try:
            shown = fetch_until(
                f"http://127.0.0.1:{port}/stats/requests",
                lambda shown: any(entry["name"] == "final latency" for entry in shown["stats"]),
            )
            live = fetch_until(
                f"http://127.0.0.1:{port}/live/data",
                lambda seconds: any(second["streams"] == 6 for second in seconds),
            )
            page = fetch(f"http://127.0.0.1:{port}/live").decode()
        finally:
            process.terminate()
    assert "lateness_p99_ms" in page
    assert max(second["p99_ms"] for second in live) >= 4
    names = {(entry["method"], entry["name"]) for entry in shown["stats"]}
    assert names >= {
        ("stream", "chunk latency"),
        ("stream", "final latency"),
        ("generator", "lateness"),
    }
    assert shown["user_count"] == 6
    charted = shown["current_response_time_percentiles"]
    assert set(charted) == {f"response_time_percentile_{p}" for p in (0.5, 0.95, 0.99)}
    chunks = next(entry for entry in shown["stats"] if entry["name"] == "chunk latency")
    # The charts are drawn from the sum of all requests: that must be the chunks alone.
    assert shown["stats"][-1]["num_requests"] == chunks["num_requests"]


def fetch(url: str) -> bytes:
    with _without_proxy.open(url, timeout=60) as response:
        return response.read()


def fetch_until(url: str, shows: Callable[[Any], bool]) -> Any:
    """Ask until the server is up and shows what is expected."""
    give_up_s = time.monotonic() + 200
    while True:
        with contextlib.suppress(OSError):
            shown = json.loads(fetch(url))
            if shows(shown):
                return shown
        assert time.monotonic() < give_up_s
        time.sleep(0.2)


def hold(*options: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "loadtest", "hold", *options])


def test_hold_passes_with_a_document(service: str, tmp_path: Path) -> None:
    output = tmp_path / "level.json"
    options = ["--speech", str(SPEECH), "--output", str(output), *MODEL]
    options += ["--p99-ms", "2000"]  # on a busy machine the service may be late
    result = hold("--url", service, "--streams", "6", "--hold-s", "3", *options)
    document = CapacityResult.from_json(output)
    [level] = document.levels
    assert result.returncode == {"pass": 0, "invalid": 3}[document.verdict], result.stderr
    assert level.streams == 6
    assert level.chunk_latency.count > 6 * 15
    assert level.transcripts_compared >= 6
    assert level.transcripts_different == 0
    assert document.conditions.server_location == "same machine"
    assert level.stages == []  # it has no metrics
    assert level.generator_cpu_cores > 0


def test_hold_fails_when_the_rule_is_broken(service: str, tmp_path: Path) -> None:
    options = ["--p99-ms", "3", "--speech", str(SPEECH), "--output", str(tmp_path / "level.json")]
    options += MODEL
    result = hold("--url", service, "--streams", "4", "--hold-s", "3", *options)
    assert result.returncode in (1, 3)
    assert "allowed 3 ms" in result.stdout


def test_a_missing_model_is_a_users_mistake(service: str) -> None:
    result = hold("--url", service, "--model", "clinic_v1", "--streams", "4")
    assert result.returncode == 2
    assert "has no model 'clinic_v1'" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_server_is_a_users_mistake() -> None:
    result = hold("--url", f"127.0.0.1:{free_port()}", "--streams", "4")
    assert result.returncode == 2
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("host", "message"), [([], "pass --host"), (["--host", "http://127.0.0.1:1"], "not http")]
)
def test_a_wrong_host_stops_at_once_with_one_line(host: list[str], message: str) -> None:
    result = run([*LOCUST, *SHORT, *host, "--headless", "-u", "2", "-t", "5s"])
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_preparation_is_no_part_of_the_run_time() -> None:
    """Shorter than the reference transcripts take, 61 chunks one by one, with the warm-up."""
    with fake_service(Truth(chunk_ms=160, service_ms=4.0, latency_ms=150.0, name=MODEL[1])) as url:
        result = run(headless(url, seconds=12))
    assert level_in(result.stdout)[0] == 6


def test_waiting_for_workers_is_told() -> None:
    port = str(free_port())
    with fake_service(Truth(chunk_ms=160, service_ms=1.0)) as url:
        command = ["hold", "--url", url, "--streams", "2", "--workers", "1", "--processes", "0"]
        command += ["--master-port", port, "--speech", str(PROJECT / "recordings" / "jfk")]
        waiting = subprocess.Popen(
            [sys.executable, "-m", "loadtest", *command],
            cwd=PROJECT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        told = next(line for line in waiting.stderr if "waiting for 1 worker of" in line)
        waiting.kill()
        waiting.communicate()
    assert f"on port {port}" in told
