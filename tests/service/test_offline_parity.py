"""Every recording, every architecture: alone and 64 at once, the tokens of transformers (slow).

EARSHOT_SPEECH names a folder with more recordings than those of this repository,
EARSHOT_CHECKPOINT a checkpoint to take for the demo one, EARSHOT_RECORD a file to write what was
seen to.

Random checkpoints of the Parakeet kinds are undecided now and then (see ties.py); a recording that
differs from such a place on is counted, and may be one in thirty. The demo checkpoint and the
random one that streams are equal without exception.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import load_checkpoint
from export.install import replacing
from export.offline.export import export_offline
from export.offline.reference import transcribe
from export.options import ExportOptions
from export.recordings import load_recordings
from export.streaming.reference import ReferenceResult
from server.launch import running
from tests.support.offline_service import Answer, OfflineService
from tests.support.parity_record import record
from tests.support.project import DEMO_CHECKPOINT, OFFLINE_KINDS, OfflineCheckpoint
from tests.support.ties import began_with_a_tie

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(1800)]


RANDOM_AND_NORMALIZED = ("ctc", "rnnt", "tdt")
MOST_TIED = 0.03
"""Of the recordings."""


@dataclass(frozen=True)
class ParityService(OfflineService):
    """One that knows what it serves."""

    case: str = ""

    def is_tied(self, samples: np.ndarray, got: Answer, expected: ReferenceResult) -> bool:
        """Whether they differ, from where a random checkpoint was undecided."""
        ours = list(zip(got.tokens, got.token_frames, strict=True))
        theirs = list(zip(expected.tokens, expected.token_frames, strict=True))
        may_be = self.case in RANDOM_AND_NORMALIZED and ours != theirs
        return may_be and began_with_a_tie(self.checkpoint, samples, ours, theirs)


@pytest.fixture(scope="module", params=["demo", *OFFLINE_KINDS])
def service(
    request: pytest.FixtureRequest,
    offline_checkpoint: OfflineCheckpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ParityService]:
    folder = (
        os.environ.get("EARSHOT_CHECKPOINT", str(DEMO_CHECKPOINT))
        if request.param == "demo"
        else str(offline_checkpoint(request.param))
    )
    checkpoint = load_checkpoint(folder)
    repository = tmp_path_factory.mktemp("models") / request.param
    options = ExportOptions(folder, repository)
    with replacing(repository) as new:
        export_offline(checkpoint, options, new, lambda step: None)
    with running(repository) as triton:
        urls = triton.grpc_url, triton.metrics_url
        yield ParityService(*urls, checkpoint, case=request.param)


@pytest.fixture(scope="module")
def speech(speech_folder: Path) -> list[np.ndarray]:
    return [recording.samples for recording in load_recordings(speech_folder)]


def test_every_recording(service: ParityService, speech: list[np.ndarray]) -> None:
    expected = transcribe(service.checkpoint, speech)
    tied: set[int] = set()
    for at_once in (1, 64):
        answers = service.transcribe(speech, at_once)
        for index, (got, reference) in enumerate(zip(answers, expected, strict=True)):
            if service.is_tied(speech[index], got, reference):
                tied.add(index)
            else:
                service.assert_equal(got, reference)
    assert len(tied) <= MOST_TIED * len(speech)
    record(
        "offline, every recording alone and 64 at once",
        service.case,
        service.checkpoint,
        recordings=len(speech),
        seconds=round(sum(map(len, speech)) / SAMPLE_RATE_HZ),
        tokens=sum(len(reference.tokens) for reference in expected),
        differing_by_a_tie=len(tied),
        differing_otherwise=0,
    )
