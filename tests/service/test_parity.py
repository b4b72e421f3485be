"""The demo checkpoint on every recording, every chunk, and ten minutes of speech (slow).

EARSHOT_SPEECH names a folder with more recordings than those of this repository,
EARSHOT_CHECKPOINT another checkpoint, EARSHOT_RECORD a file to write what was seen to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.audio import SAMPLE_RATE_HZ, SUPPORTED_CHUNK_MS
from export.checkpoint import load_checkpoint
from export.install import replacing
from export.options import ExportOptions, Serving
from export.recordings import load_recordings
from export.streaming.export import export_streaming
from server.launch import running
from tests.support.parity_record import record
from tests.support.project import DEMO_CHECKPOINT
from tests.support.streaming_service import Service

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(1800)]

TEN_MINUTES = 600 * SAMPLE_RATE_HZ


@pytest.fixture(scope="module", params=SUPPORTED_CHUNK_MS, ids=lambda ms: f"{ms}ms")
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    repository = tmp_path_factory.mktemp("models") / "demo"
    checkpoint = load_checkpoint(os.environ.get("EARSHOT_CHECKPOINT", str(DEMO_CHECKPOINT)))
    options = ExportOptions(
        checkpoint.name, repository, chunk_ms=request.param, serving=Serving(max_streams=256)
    )
    with replacing(repository) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    with running(repository) as triton:
        yield Service(triton.grpc_url, triton.metrics_url, checkpoint, request.param)


@pytest.fixture(scope="module")
def speech(speech_folder: Path) -> list[np.ndarray]:
    return [recording.samples for recording in load_recordings(speech_folder)]


def test_every_recording(service: Service, speech: list[np.ndarray]) -> None:
    references = service.references(speech)
    for got, expected in zip(service.transcribe(speech), references, strict=True):
        service.assert_equal(got, expected)
    record(
        "streaming, every recording",
        f"{service.chunk_ms} ms",
        service.checkpoint,
        recordings=len(speech),
        seconds=round(sum(map(len, speech)) / SAMPLE_RATE_HZ),
        tokens=sum(len(reference.tokens) for reference in references),
        differing=0,
    )


def test_ten_minutes(service: Service, speech: list[np.ndarray]) -> None:
    joined = np.resize(np.concatenate(speech), TEN_MINUTES)
    [expected] = service.references([joined])
    [got] = service.transcribe([joined])
    service.assert_equal(got, expected)
    record(
        "streaming, ten minutes as one stream",
        f"{service.chunk_ms} ms",
        service.checkpoint,
        tokens=len(expected.tokens),
        differing=0,
    )
