"""Whole files with `--runtime torch` in a real Triton, on the CPU."""

from __future__ import annotations

from pathlib import Path

import earshot
import numpy as np
import pytest

from export.checkpoint import load_checkpoint
from export.recordings import load_recordings
from tests.support.offline_service import BUCKETS, OfflineService
from tests.support.project import (
    PROJECT,
    ExportedOffline,
    OfflineCheckpoint,
    OfflineReference,
    Served,
)

pytestmark = [pytest.mark.triton, pytest.mark.slow]

KIND = "rnnt"


@pytest.fixture(scope="module")
def service(
    exported_offline_torch: ExportedOffline,
    offline_checkpoint: OfflineCheckpoint,
    served: Served,
) -> OfflineService:
    checkpoint = load_checkpoint(str(offline_checkpoint(KIND)))
    triton = served(exported_offline_torch(KIND))
    return OfflineService(triton.grpc_url, triton.metrics_url, checkpoint)


def test_transcripts_of_recordings_match_the_original(
    service: OfflineService, offline_reference: OfflineReference
) -> None:
    """In batches of mixed lengths, some of which are larger than a run."""
    speech = [recording.samples for recording in load_recordings()]
    expected = offline_reference(service.checkpoint)
    assert sum(len(reference.tokens) for reference in expected) > 100
    for got, reference in zip(service.transcribe(speech * 2), expected * 2, strict=True):
        service.assert_equal(got, reference)


@pytest.mark.parametrize("length", [0, 1, 320])
def test_very_short_audio_has_an_answer(service: OfflineService, length: int) -> None:
    audio = np.resize(load_recordings()[0].samples, BUCKETS[0])
    answer = service.infer(audio, length)
    if length < 320:
        assert answer.text == "" and answer.tokens == []


def test_the_client_gets_the_words_times_and_confidences_of_onnx_runtime(
    service: OfflineService,
    exported_offline_torch: ExportedOffline,
    exported_offline: ExportedOffline,
    served: Served,
) -> None:
    torch, onnx = (
        words(served(repository(KIND)).grpc_url)
        for repository in (exported_offline_torch, exported_offline)
    )
    assert len(torch) > 5
    assert [word.text for word in torch] == [word.text for word in onnx]
    assert [(word.start_ms, word.end_ms) for word in torch] == [
        (word.start_ms, word.end_ms) for word in onnx
    ]
    confidences = [word.confidence for word in onnx]
    assert [word.confidence for word in torch] == pytest.approx(confidences, abs=1e-3)


def words(url: str) -> list[earshot.Word]:
    recording: Path = PROJECT / "recordings" / "jfk" / "jfk.flac"
    with earshot.connect(url) as client:
        return list(client.transcribe(recording).words)
