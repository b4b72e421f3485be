"""The whole service on a real Triton: transcripts that a client gets match transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import earshot
import numpy as np
import pytest

from export.audio import FRAME_SAMPLES, LEAD_SAMPLES, SUPPORTED_CHUNK_MS
from export.recordings import Recording, load_recordings
from tests.support.fake_recognizer import PATIENT
from tests.support.project import Exported, Served
from tests.support.streaming_service import Service

pytestmark = pytest.mark.triton

EDGES_CHUNK_MS = 320


CHUNKS_MS = [
    # Half a minute of one core each; `make parity` has all.
    pytest.param(ms, marks=pytest.mark.slow) if ms != EDGES_CHUNK_MS else ms
    for ms in SUPPORTED_CHUNK_MS
]


@pytest.fixture(scope="module", params=CHUNKS_MS, ids=lambda ms: f"{ms}ms")
def service(
    request: pytest.FixtureRequest, exported: Exported, random_checkpoint: Path, served: Served
) -> Service:
    triton = served(exported(request.param))
    return Service.of(triton.grpc_url, triton.metrics_url, random_checkpoint, request.param)


@pytest.fixture(scope="module")
def speech() -> list[Recording]:
    return load_recordings()


def test_transcripts_of_recordings_match_the_reference(
    service: Service, speech: list[Recording]
) -> None:
    utterances = [recording.samples for recording in speech]
    references = service.references(utterances)
    assert sum(len(reference.tokens) for reference in references) > 100
    for got, expected in zip(service.transcribe(utterances), references, strict=True):
        service.assert_equal(got, expected)


def test_synthetic_edges(service: Service, speech: list[Recording]) -> None:
    """Empty, one sample, shorter than a chunk, and an end on each 10 ms of a chunk."""
    chunk = service.chunk_ms * 16
    samples = speech[0].samples
    lengths = [0, 1, chunk - LEAD_SAMPLES - 1, chunk - LEAD_SAMPLES, chunk - LEAD_SAMPLES + 1]
    lengths += range(chunk, 2 * chunk, 160)
    utterances = [samples[:length] for length in lengths]
    references = service.references(utterances)
    for got, expected in zip(service.transcribe(utterances), references, strict=True):
        service.assert_equal(got, expected)


def test_finalize_is_silence_that_takes_no_time(service: Service, speech: list[Recording]) -> None:
    """The tokens are those of the audio with the silence in it, the times those without it."""
    before, after = speech[0].samples, speech[1].samples
    chunk = service.chunk_ms * 16
    silence = chunk - (len(before) + LEAD_SAMPLES) % chunk
    while silence < 320 * 16:
        silence += chunk
    frames = -(-silence // FRAME_SAMPLES)
    silent = np.zeros(frames * FRAME_SAMPLES, np.float32)
    [expected] = service.references([np.concatenate([before, silent, after])])
    with (
        earshot.connect(service.url, timeouts=PATIENT) as client,
        client.stream(sample_rate_hz=16_000) as stream,
    ):
        stream.send(before)
        stream.finalize()
        stream.send(after)
        got = stream.finish()
    last = len(before) // FRAME_SAMPLES
    moved = [max(frame - frames, min(frame, last)) for frame in expected.token_frames]
    service.assert_equal(got, replace(expected, token_frames=moved))


def test_two_hundred_streams_at_once_get_their_own_transcripts(
    service: Service, speech: list[Recording]
) -> None:
    if service.chunk_ms != EDGES_CHUNK_MS:
        pytest.skip("one chunk size is enough: what is tested is who gets which answer")
    samples = np.concatenate([recording.samples for recording in speech])
    random = np.random.default_rng(0)
    starts = random.integers(0, len(samples) - 16_000 * 5, 200)
    lengths = random.integers(16_000, 16_000 * 4, 200)
    utterances = [samples[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    together = service.transcribe(utterances, at_once=200)
    for got, expected in zip(together, service.references(utterances), strict=True):
        service.assert_equal(got, expected)
    some = range(0, 200, 20)
    for index, alone in zip(
        some, service.transcribe([utterances[i] for i in some], 1), strict=True
    ):
        # Other streams in the batch may change the last digits of a log-probability, nothing else.
        one, among_others = (
            [(token.id, token.text, token.frame) for token in transcript.tokens]
            for transcript in (alone, together[index])
        )
        assert one == among_others
