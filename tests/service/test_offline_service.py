"""Whole utterances through a real Triton: transcripts match transformers."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from export.checkpoint import load_checkpoint
from export.recordings import load_recordings
from export.spec import served_name
from tests.support.launcher import wait_for
from tests.support.offline_service import BUCKETS, OfflineService
from tests.support.project import (
    OFFLINE_KINDS,
    OFFLINE_NAMES,
    ExportedOffline,
    OfflineCheckpoint,
    OfflineReference,
    Served,
)

pytestmark = pytest.mark.triton

FILES_AT_ONCE = 64
SECOND = 16_000


@pytest.fixture(scope="module", params=OFFLINE_KINDS)
def service(
    request: pytest.FixtureRequest,
    exported_offline: ExportedOffline,
    offline_checkpoint: OfflineCheckpoint,
    served: Served,
) -> OfflineService:
    checkpoint = load_checkpoint(str(offline_checkpoint(request.param)))
    ensemble = served_name(OFFLINE_NAMES.get(request.param, ""), "asr_offline")
    triton = served(exported_offline(request.param))
    return OfflineService(triton.grpc_url, triton.metrics_url, checkpoint, ensemble)


@pytest.fixture(scope="module")
def one_service(
    exported_offline: ExportedOffline, offline_checkpoint: OfflineCheckpoint, served: Served
) -> OfflineService:
    """A service of one kind, for what does not depend on it."""
    checkpoint = load_checkpoint(str(offline_checkpoint("ctc")))
    triton = served(exported_offline("ctc"))
    return OfflineService(triton.grpc_url, triton.metrics_url, checkpoint)


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    return [recording.samples for recording in load_recordings()]


def test_transcripts_of_recordings_match_the_original(
    service: OfflineService,
    speech: list[np.ndarray],
    offline_reference: OfflineReference,
) -> None:
    expected = offline_reference(service.checkpoint)
    assert sum(len(reference.tokens) for reference in expected) > 100
    alone = service.transcribe(speech, at_once=1)
    together = service.transcribe(speech * 4)
    for got, reference in zip([*alone, *together], expected * 5, strict=True):
        service.assert_equal(got, reference)


@pytest.mark.parametrize(("least_s", "most_s", "alike"), [(4, 8, True), (1, 16, False)])
def test_sixty_four_files_at_once_share_batches(
    one_service: OfflineService,
    speech: list[np.ndarray],
    least_s: int,
    most_s: int,
    alike: bool,
) -> None:
    """More than eight in a batch, whatever their lengths; where they are alike, few runs of it.

    Half of a run is filled with lengths down to half of the longest, so where all lie within that,
    only the last run of a batch has fewer than eight rows. How many rows a batch has depends on the
    machine.
    """
    counters = {
        "requests": "nv_inference_count",
        "batches": "nv_inference_exec_count",
        "rows": "earshot_rows_total",
        "runs": "earshot_runs_total",
    }
    samples = np.concatenate(speech)
    random = np.random.default_rng(0)
    lengths = random.integers(SECOND * least_s + 1, SECOND * most_s, 8 * FILES_AT_ONCE)
    starts = random.integers(0, len(samples) - SECOND * most_s, 8 * FILES_AT_ONCE)
    files = [samples[at : at + length] for at, length in zip(starts, lengths, strict=True)]

    def value(name: str) -> float:
        return one_service.counter(counters[name])["encoder_offline"]

    # Rows and runs come with the next heartbeat.
    wait_for(lambda: value("rows") == value("requests"))
    before = {name: value(name) for name in counters}
    one_service.transcribe(files, at_once=FILES_AT_ONCE)
    wait_for(lambda: value("rows") == before["rows"] + len(files))
    grown = {name: value(name) - before[name] for name in counters}
    assert grown["requests"] == grown["rows"] == len(files)
    assert grown["requests"] / grown["batches"] > 8
    if alike:
        assert grown["runs"] <= grown["batches"] + grown["rows"] / 8


@pytest.mark.parametrize("length", [0, 1, 159, 160, 319, 320, 399])
def test_very_short_audio_has_an_answer(
    one_service: OfflineService, speech: list[np.ndarray], length: int
) -> None:
    answer = one_service.infer(np.resize(speech[0], BUCKETS[0]), length)
    if length < 320:
        assert answer.text == "" and answer.tokens == []


@pytest.mark.parametrize(
    ("audio", "length", "message"),
    [
        (np.zeros(SECOND), SECOND, r"AUDIO has a length of 16000, not 32000, .*: pad it"),
        (np.zeros(33 * SECOND), SECOND, r"not 32000, .* 480000: cut it into pieces"),
        (np.zeros(BUCKETS[0]), -1, r"AUDIO_LENGTH must lie in 0\.\.32000, not -1"),
        (np.zeros(BUCKETS[0]), BUCKETS[0] + 1, r"AUDIO_LENGTH must lie in 0\.\.32000, not 32001"),
        (np.full(BUCKETS[0], np.nan), SECOND, "AUDIO holds NaN"),
        (np.full(BUCKETS[0], 1e9), SECOND, r"AUDIO peaks at 1e\+09"),
        (np.zeros(0), 0, r"AUDIO has a length of 0, not 32000"),
    ],
)
def test_bad_input_is_refused_with_a_reason(
    one_service: OfflineService, audio: np.ndarray, length: int, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        one_service.infer(audio, length)


def test_a_refused_file_does_not_spoil_its_batch(
    one_service: OfflineService, speech: list[np.ndarray]
) -> None:
    expected = one_service.transcribe(speech[:2], at_once=1)
    broken = speech[2].copy()
    broken[100] = np.inf
    with pytest.raises(InferenceServerException, match="AUDIO peaks at inf"):
        one_service.transcribe([*speech[:2], broken])
    assert one_service.transcribe(speech[:2]) == expected
