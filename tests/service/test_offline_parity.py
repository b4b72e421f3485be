"""Every recording, every architecture: alone and 64 at once, the tokens of transformers (slow).

EARSHOT_SPEECH names a folder with more recordings than those of this repository,
EARSHOT_CHECKPOINT a checkpoint to take for the demo one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from project import DEMO_CHECKPOINT, OFFLINE_KINDS, OfflineCheckpoint
from whole_files import OfflineService

from export.checkpoint import load_checkpoint
from export.install import replacing
from export.offline.export import export_offline
from export.offline.reference import transcribe
from export.offline.spec import OfflineServing
from export.recordings import load_recordings
from server.launch import running

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=["demo", *OFFLINE_KINDS])
def service(
    request: pytest.FixtureRequest,
    offline_checkpoint: OfflineCheckpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OfflineService]:
    folder = (
        os.environ.get("EARSHOT_CHECKPOINT", str(DEMO_CHECKPOINT))
        if request.param == "demo"
        else str(offline_checkpoint(request.param))
    )
    checkpoint = load_checkpoint(folder)
    repository = tmp_path_factory.mktemp("models") / request.param
    serving = OfflineServing()
    with replacing(repository) as new:
        export_offline(checkpoint, "onnxruntime", "fp32", new, serving, lambda step: None)
    with running(repository) as triton:
        yield OfflineService(triton.grpc_url, triton.metrics_url, checkpoint)


@pytest.fixture(scope="module")
def speech(speech_folder: Path) -> list[np.ndarray]:
    return [recording.samples for recording in load_recordings(speech_folder)]


def test_every_recording(service: OfflineService, speech: list[np.ndarray]) -> None:
    expected = transcribe(service.checkpoint, speech)
    for at_once in (1, 64):
        for got, reference in zip(service.transcribe(speech, at_once), expected, strict=True):
            service.assert_equal(got, reference)
