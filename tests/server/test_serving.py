"""The backend inside a real Triton: state, isolation, refusals, limits, metrics."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.heartbeats import read_heartbeats
from server.launch import Triton
from tests.support.launcher import stop_process, wait_for
from tests.support.metrics import metric
from tests.support.toy_repository import CHUNK_SAMPLES, MAX_ABS, MAX_STREAMS
from tests.support.toy_streams import Stream, constant

pytestmark = pytest.mark.triton


def test_interleaved_streams_keep_their_own_state(
    client: grpcclient.InferenceServerClient,
) -> None:
    streams = [Stream(client) for _ in range(60)]
    rng = np.random.default_rng(7)
    chunks = rng.integers(-MAX_ABS, MAX_ABS + 1, (12, len(streams), 1, CHUNK_SAMPLES)).astype(
        np.float32
    )
    sums = chunks.sum(axis=(2, 3)).cumsum(axis=0)
    totals = sums.cumsum(axis=0)
    for step in range(len(chunks)):
        order = rng.permutation(len(streams))
        answers = {i: streams[i].send(chunks[step, i], end=step == 11) for i in order}
        for i, answer in answers.items():
            expected = {"SUM": sums[step, i], "TOTAL": totals[step, i], "CHUNKS": step + 1}
            assert answer.result(timeout=60) == expected


def test_batches_are_formed(triton: Triton, client: grpcclient.InferenceServerClient) -> None:
    """Of requests that wait together: the stage stands still until all have been sent."""
    before = _counts(triton, "summer")
    streams = [Stream(client) for _ in range(48)]
    [pid] = [
        beat["pid"] for beat in read_heartbeats(triton.heartbeats) if beat["model"] == "summer"
    ]
    stop_process(pid)
    try:
        answers = [stream.send(constant(1.0), end=True) for stream in streams]
        waiting = 48 - 16  # the first batch has left the queue
        wait_for(lambda: metric(triton, "nv_inference_pending_request_count", "summer") >= waiting)
    finally:
        os.kill(pid, signal.SIGCONT)
    for answer in answers:
        answer.result(timeout=60)
    requests, runs = (after - b for after, b in zip(_counts(triton, "summer"), before, strict=True))
    assert requests == 48
    assert runs < requests


def test_start_resets_a_known_stream(client: grpcclient.InferenceServerClient) -> None:
    stream = Stream(client)
    stream.send(constant(5.0)).result(timeout=60)
    answer = stream.send(constant(1.0), start=True).result(timeout=60)
    assert answer == {"SUM": 8.0, "TOTAL": 8.0, "CHUNKS": 1.0}
    stream.finish()


def test_end_frees_the_slot(client: grpcclient.InferenceServerClient) -> None:
    for _ in range(2 * MAX_STREAMS):
        Stream(client).send(constant(1.0), end=True).result(timeout=60)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "AUDIO holds NaN"), (np.inf, "AUDIO peaks at inf"), (1e30, "AUDIO peaks at 1e.30")],
)
def test_a_value_out_of_bounds_fails_alone(
    client: grpcclient.InferenceServerClient, value: float, message: str
) -> None:
    streams = [Stream(client) for _ in range(16)]
    for answer in [stream.send(constant(1.0)) for stream in streams]:
        answer.result(timeout=60)
    chunk = constant(1.0)
    chunk[0, 3] = value
    answers = [s.send(chunk if i == 5 else constant(2.0)) for i, s in enumerate(streams)]
    with pytest.raises(InferenceServerException, match=message) as refusal:
        answers.pop(5).result(timeout=60)
    assert "INVALID_ARGUMENT" in str(refusal.value.status())
    assert all(answer.result(timeout=60)["SUM"] == 24.0 for answer in answers)
    # The refused chunk has not changed its stream.
    assert streams[5].send(constant(2.0)).result(timeout=60)["SUM"] == 24.0
    for stream in streams:
        stream.finish()


def test_a_stream_whose_start_was_refused_is_unknown(
    client: grpcclient.InferenceServerClient,
) -> None:
    stream, other = Stream(client), Stream(client)
    with pytest.raises(InferenceServerException, match="AUDIO holds NaN"):
        stream.send(constant(np.nan)).result(timeout=60)
    unknown, fine = stream.send(constant(1.0)), other.send(constant(1.0))
    with pytest.raises(InferenceServerException, match="is not open"):
        unknown.result(timeout=60)
    assert fine.result(timeout=60)["SUM"] == 8.0
    other.finish()


@pytest.mark.parametrize("length", [-1, CHUNK_SAMPLES + 1])
def test_impossible_length_is_refused(
    client: grpcclient.InferenceServerClient, length: int
) -> None:
    with pytest.raises(InferenceServerException, match=r"must lie in 0\.\.8"):
        Stream(client).send(constant(1.0), length=length, end=True).result(timeout=60)


def test_audio_after_the_end_is_refused(client: grpcclient.InferenceServerClient) -> None:
    stream = Stream(client)
    stream.send(constant(1.0), length=3).result(timeout=60)
    with pytest.raises(InferenceServerException, match="audio has ended"):
        stream.send(constant(1.0)).result(timeout=60)
    stream.finish()


def test_wrong_shape_is_refused(client: grpcclient.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        Stream(client).send(np.zeros((1, 5), np.float32)).result(timeout=60)


def test_full_server_refuses_and_recovers(
    triton: Triton, client: grpcclient.InferenceServerClient
) -> None:
    wait_for(lambda: metric(triton, "earshot_live_streams", "summer") == 0)
    streams = [Stream(client) for _ in range(MAX_STREAMS)]
    for answer in [stream.send(constant(1.0)) for stream in streams]:
        answer.result(timeout=60)
    late = Stream(client)
    with pytest.raises(InferenceServerException, match="all are taken") as refusal:
        late.send(constant(1.0)).result(timeout=60)
    assert "UNAVAILABLE" in str(refusal.value.status())
    for stream in streams:
        stream.finish()
    assert Stream(client).send(constant(1.0), end=True).result(timeout=60)["SUM"] == 8.0


def test_metrics_follow_live_and_expired_streams(
    triton: Triton, client: grpcclient.InferenceServerClient
) -> None:
    expired = metric(triton, "earshot_expired_streams_total", "summer")
    streams = [Stream(client) for _ in range(3)]
    for stream in streams:
        stream.send(constant(1.0)).result(timeout=60)
    wait_for(lambda: metric(triton, "earshot_live_streams", "summer") == 3)
    wait_for(lambda: metric(triton, "earshot_live_streams", "summer") == 0)
    assert metric(triton, "earshot_expired_streams_total", "summer") == expired + 3
    with pytest.raises(InferenceServerException, match="START"):
        streams[0].send(constant(1.0)).result(timeout=60)


def _counts(triton: Triton, model: str) -> tuple[float, float]:
    return (
        metric(triton, "nv_inference_count", model),
        metric(triton, "nv_inference_exec_count", model),
    )
