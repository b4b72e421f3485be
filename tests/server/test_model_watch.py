"""The launcher's own chunks in a real server: a full one, and one to which models are added."""

from __future__ import annotations

import re
import shutil
import signal
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.backends.earshot.earshot_runtime.canary_mark import CANARY
from tests.support.gated_repository import write_gated_repository
from tests.support.generations import copy_as
from tests.support.launcher import Started, started, wait_for
from tests.support.toy_repository import damaged_summer_graph, save, write_toy_repository
from tests.support.toy_streams import Stream, constant

pytestmark = pytest.mark.triton

KEY = {"triton-grpc-protocol-admin-key": "0123456789abcdef"}


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers leave their records where no other server is found."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def read(server: Started, name: str, **labels: str) -> float | None:
    """Return the sum of a metric over what has these labels; None if there is none."""
    with urllib.request.urlopen(server.metrics_url, timeout=60) as response:
        page = response.read().decode()
    values = [
        float(value)
        for found, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", page, re.MULTILINE)
        if all(f'{key}="{label}"' in found for key, label in labels.items())
    ]
    return sum(values) if values else None


def canaries(server: Started, model: str = "toy_streaming") -> float:
    """Return how many chunks of the launcher went through all stages."""
    return read(server, "earshot_canary_seconds_count", model=model) or 0


def test_a_full_server_is_tested_and_refuses_nobody_but_callers(tmp_path: Path) -> None:
    repository = write_toy_repository(tmp_path / "repository", max_streams=2, max_idle_s=600)
    with started(repository) as server, grpcclient.InferenceServerClient(server.url) as client:
        streams = [Stream(client), Stream(client)]
        for stream in streams:
            assert stream.send(constant(1.0)).result(timeout=60)["CHUNKS"] == 1
        before = canaries(server)
        wait_for(lambda: canaries(server) >= before + 3)
        for stream in streams:
            assert stream.send(constant(1.0)).result(timeout=60)["CHUNKS"] == 2
        for forged in ({CANARY: "guess"}, {}):
            late = Stream(client, parameters=forged)
            with pytest.raises(InferenceServerException, match="all are taken"):
                late.send(constant(1.0), end=True).result(timeout=60)
        wait_for(lambda: read(server, "earshot_refused_streams_total", reason="full") == 2)
        for stage in ("summer", "accumulator"):
            assert read(server, "earshot_started_streams_total", model=stage) == 2
            assert read(server, "earshot_live_streams", model=stage) == 2


def test_models_that_are_loaded_later_are_tested(tmp_path: Path) -> None:
    toy = write_toy_repository(tmp_path / "toy", max_idle_s=600)
    repository = tmp_path / "repository"
    shutil.copytree(toy, repository)
    (key := tmp_path / "key").write_text(KEY["triton-grpc-protocol-admin-key"])
    with (
        started(repository, "--model-control", "--admin-key-file", str(key)) as server,
        grpcclient.InferenceServerClient(server.url) as client,
    ):
        stream, chunks = Stream(client), 0

        def goes_on() -> bool:
            nonlocal chunks
            chunks += 1
            return stream.send(constant(1.0)).result(timeout=60)["CHUNKS"] == chunks

        def wait(condition: Callable[[], bool]) -> None:
            """Wait, while a stream of another model goes on."""
            wait_for(lambda: goes_on() and condition())

        copy_as("second", toy, repository)
        client.load_model("second_toy_streaming", KEY)
        wait(lambda: canaries(server, "second_toy_streaming") >= 2)
        assert read(server, "earshot_model_info", model="second_toy_streaming") == 1
        client.unload_model("second_toy_streaming", KEY, unload_dependents=True)
        wait(lambda: read(server, "earshot_model_info", model="second_toy_streaming") is None)
        assert canaries(server, "second_toy_streaming") == 0
        save(damaged_summer_graph(), toy / "summer" / "1" / "model.onnx")
        copy_as("damaged", toy, repository)
        client.load_model("damaged_toy_streaming", KEY)
        wait(lambda: read(server, "earshot_damaged_models_total") == 1)
        wait(lambda: ready_models(client) == {"toy_streaming", "summer", "accumulator"})
        before = canaries(server)
        wait(lambda: canaries(server) > before)
        stream.finish()
        server.launcher.send_signal(signal.SIGTERM)
        _, errors = server.launcher.communicate(timeout=300)
    assert server.launcher.returncode == 0
    assert "damaged_toy_streaming does not answer a chunk of silence" in errors
    assert "SUM holds NaN or infinity" in errors
    assert "is unloaded: the others go on" in errors


def ready_models(client: grpcclient.InferenceServerClient) -> set[str]:
    index: Any = client.get_model_repository_index(KEY)
    return {model.name for model in index.models if model.state == "READY"}


def test_a_server_whose_chunks_wait_refuses_new_streams_until_they_move(tmp_path: Path) -> None:
    """With the default of --chunk-share, and Triton's own counters."""
    gate = write_gated_repository(tmp_path)
    with (
        started(gate.repository) as server,
        grpcclient.InferenceServerClient(server.url) as client,
    ):
        stream = Stream(client)
        assert stream.send(constant(1.0)).result(timeout=60)["TOTAL"] == 8
        wait_for(lambda: (read(server, "earshot_stream_limit", model="toy_streaming") or 0) > 1)
        gate.set("closed")
        waiting = stream.send(constant(1.0))
        wait_for(lambda: read(server, "earshot_stream_limit", model="toy_streaming") == 0)
        with pytest.raises(InferenceServerException, match="this server is saturated") as refusal:
            Stream(client).send(constant(1.0)).result(timeout=60)
        assert refusal.value.status() == "StatusCode.UNAVAILABLE"
        assert not waiting.done()
        gate.clear("closed")
        assert waiting.result(timeout=60)["TOTAL"] == 16
        wait_for(lambda: is_admitted(client))
        assert stream.send(constant(1.0)).result(timeout=60)["TOTAL"] == 24
        wait_for(
            lambda: (read(server, "earshot_refused_streams_total", reason="saturated") or 0) >= 1
        )


def is_admitted(client: grpcclient.InferenceServerClient) -> bool:
    try:
        Stream(client).send(constant(1.0), end=True).result(timeout=60)
    except InferenceServerException as refusal:
        assert "this server is saturated" in str(refusal)
        return False
    return True
