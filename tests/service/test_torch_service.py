"""The torch runtime in a real Triton, on the CPU: both layouts match transformers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint import load_checkpoint
from export.install import replacing
from export.options import LAYOUTS, ExportOptions, Serving
from export.recordings import load_recordings
from export.streaming.export import export_streaming
from server.launch import running
from tests.support.launcher import children, started
from tests.support.project import PROJECT
from tests.support.streaming_service import Service

pytestmark = [pytest.mark.triton, pytest.mark.slow]

CHUNK_MS = 320


@pytest.fixture(scope="module", params=[("torch", x) for x in LAYOUTS] + [("onnxruntime", "fused")])
def repository(
    request: pytest.FixtureRequest,
    random_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    runtime, layout = request.param
    folder = tmp_path_factory.mktemp("models") / f"{runtime}-{layout}"
    checkpoint = load_checkpoint(str(random_checkpoint))
    options = ExportOptions(
        str(random_checkpoint),
        folder,
        chunk_ms=CHUNK_MS,
        runtime=runtime,
        layout=layout,
        serving=Serving(max_streams=64, max_batch_size=24, encoder_instances=2),
    )
    with replacing(folder) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    return folder


@pytest.fixture(scope="module")
def service(repository: Path, random_checkpoint: Path) -> Iterator[Service]:
    with running(repository) as triton:
        yield Service.of(triton.grpc_url, triton.metrics_url, random_checkpoint, CHUNK_MS)


def test_more_streams_than_slots_one_after_another(service: Service) -> None:
    """Batches of every size up to the largest, padded ones among them; slots are used again."""
    samples = np.concatenate([recording.samples for recording in load_recordings()])
    random = np.random.default_rng(0)
    starts = random.integers(0, len(samples) - 16_000 * 4, 150)
    lengths = random.integers(1, 16_000 * 3, 150)
    utterances = [samples[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    references = service.references(utterances)
    assert sum(len(reference.tokens) for reference in references) > 100
    for got, expected in zip(service.transcribe(utterances, 50), references, strict=True):
        service.assert_equal(got, expected)


def test_engines_of_their_own_transcribe_the_same(
    repository: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    """The choice is one line of the config, without another export."""
    if repository.name != "torch-fused":
        pytest.skip("instances share an engine with torch, and one model shows it")
    own = shutil.copytree(repository, tmp_path / "own")
    with (own / "recognizer" / "config.pbtxt").open("a") as config:
        config.write('parameters { key: "engine" value: { string_value: "own" } }\n')
    utterances = [recording.samples for recording in load_recordings()[:6]]
    with started(own) as server:
        assert not [pid for stage in children(server.pid) for pid in children(stage)]
        service = Service.of(server.url, server.metrics_url, random_checkpoint, CHUNK_MS)
        references = service.references(utterances)
        for got, expected in zip(service.transcribe(utterances), references, strict=True):
            service.assert_equal(got, expected)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_engine_ends_the_server(repository: Path, how: signal.Signals) -> None:
    if repository.name.startswith("onnxruntime"):
        pytest.skip("each of its instances has an engine of its own")
    with started(repository) as server:
        [pid] = [pid for stage in children(server.pid) for pid in children(stage)]
        os.kill(pid, how)
        _, errors = server.launcher.communicate(timeout=300)
        assert server.launcher.returncode == 1
        # A canary may fail before.
        assert re.search(rf"process of .*engine.* \({pid}\)|does not answer", errors)


def test_a_request_is_counted_without_its_engine(repository: Path, tmp_path: Path) -> None:
    if repository.name != "torch-fused":
        pytest.skip("the recognizer without a network is the same for each runtime")
    output = tmp_path / "hop.json"
    command = [sys.executable, "-m", "loadtest", "hop", "--repository", str(repository), "--shared"]
    command += ["--streams", "20", "--hold-s", "2", "--output", str(output)]
    subprocess.run(command, check=True, cwd=PROJECT)
    [level] = json.loads(output.read_text())["levels"]
    assert level["requests_per_s"] > 20
    parts = [level[f"{part}_us"] for part in ("triton", "recognizer", "generator")]
    assert min(parts) > 0


def test_the_engine_alone_is_timed(repository: Path, tmp_path: Path) -> None:
    if not (repository / "recognizer").is_dir():
        pytest.skip("a chain of stages has no engine that takes audio and gives tokens")
    output = tmp_path / "engine.json"
    command = [sys.executable, "-m", "server.engine_time", "--repository", str(repository)]
    subprocess.run([*command, "--runs", "2", "--output", str(output)], check=True, cwd=PROJECT)
    timed = json.loads(output.read_text())
    assert timed["runtime"] in repository.name
    assert [entry["batch"] for entry in timed["batches"]] == [1, 8, 24]
    assert all(entry["tokens_per_chunk"] > 0 for entry in timed["batches"][1:])
