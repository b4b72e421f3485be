"""Streams that are refused and never END keep no others out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.launch import running
from tests.support.project import Exported
from tests.support.repository_files import read_config
from tests.support.toy_streams import new_id

pytestmark = pytest.mark.triton

CHUNK_MS = 320
SLOTS = 256  # of the fixture `exported`
PATIENCE_S = 60
"""For an answer; much shorter than a stream may be idle here."""
IDLE = "max_sequence_idle_microseconds: 10000000"


@pytest.fixture
def client(exported: Exported, tmp_path: Path) -> Iterator[grpcclient.InferenceServerClient]:
    """Of a server that frees no stream which stays idle, as long as the test takes."""
    repository = shutil.copytree(exported(CHUNK_MS), tmp_path / "models")
    for config in repository.glob("*/config.pbtxt"):
        config.write_text(config.read_text().replace(IDLE, f"{IDLE}00"))
    batching = read_config(repository / "encoder" / "config.pbtxt").sequence_batching
    assert batching.max_sequence_idle_microseconds > 10 * PATIENCE_S * 1e6
    with (
        running(repository) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        yield client


def test_three_times_the_slots_in_streams_that_never_end_are_refused(
    client: grpcclient.InferenceServerClient,
) -> None:
    held = [new_id() for _ in range(SLOTS)]
    for answer in [send(client, stream, start=True) for stream in held]:
        answer.result(PATIENCE_S)
    refused = [send(client, new_id(), start=True) for _ in range(3 * SLOTS)]
    for answer in refused:
        with pytest.raises(InferenceServerException, match="all are taken"):
            answer.result(PATIENCE_S)
    # Those that have a slot go on, and one that is freed is the next stream's.
    send(client, held[0]).result(PATIENCE_S)
    send(client, held[1], end=True).result(PATIENCE_S)
    send(client, new_id(), start=True).result(PATIENCE_S)
    with pytest.raises(InferenceServerException, match="all are taken"):
        send(client, new_id(), start=True).result(PATIENCE_S)


def send(
    client: grpcclient.InferenceServerClient,
    stream: int,
    *,
    start: bool = False,
    end: bool = False,
) -> Future[None]:
    """Send a chunk of silence without waiting for its answer."""
    samples = CHUNK_MS * 16
    audio = grpcclient.InferInput("AUDIO", [1, samples], "FP32")
    audio.set_data_from_numpy(np.zeros((1, samples), np.float32))
    length = grpcclient.InferInput("AUDIO_LENGTH", [1, 1], "INT32")
    length.set_data_from_numpy(np.array([[samples]], np.int32))
    answered: Future[None] = Future()

    def settle(result: Any, error: Exception | None) -> None:
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)

    client.async_infer(
        "asr_streaming",
        [audio, length],
        callback=settle,
        sequence_id=stream,
        sequence_start=start,
        sequence_end=end,
    )
    return answered
