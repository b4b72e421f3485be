"""Malformed requests to every model by name harm no live stream."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient
from earshot import AsyncClient, Transcript, connect_async

from export.audio import SAMPLE_RATE_HZ
from export.recordings import load_recordings
from server.launch import running
from server.repository import read_repository
from tests.support.malformed import Attacker
from tests.support.project import Exported
from tests.support.streaming_service import Service

pytestmark = pytest.mark.triton

CHUNK_MS = 320
LONGEST_MESSAGE = 500
"""The longest of Triton's own, about a wrong shape."""


def test_a_token_that_does_not_exist_fails_alone(exported: Exported) -> None:
    """Requests to the detokenizer by name, good and bad ones in the same batches."""
    with (
        running(exported(CHUNK_MS)) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        answers = [_detokenize(client, token) for token in (3, -5) * 100]
        errors = [answer.exception(timeout=30) for answer in answers]
    assert errors[::2] == [None] * 100
    assert all("0 or more, not -5" in str(error) for error in errors[1::2])


def _detokenize(client: grpcclient.InferenceServerClient, token: int) -> Future[Any]:
    config: Any = client.get_model_config("detokenizer")
    arrays = {
        tensor.name: np.full((1, *tensor.dims), 1 if tensor.name == "TOKEN_COUNT" else token)
        for tensor in config.config.input
    }
    inputs: list[Any] = []
    for name, values in arrays.items():
        inputs.append(grpcclient.InferInput(name, list(values.shape), "INT32"))
        inputs[-1].set_data_from_numpy(values.astype(np.int32))
    answer: Future[Any] = Future()
    client.async_infer(
        "detokenizer",
        inputs,
        lambda result, error: answer.set_exception(error) if error else answer.set_result(result),
        sequence_id=secrets.randbits(62) + 1,
        sequence_start=True,
        sequence_end=True,
    )
    return answer


def test_malformed_requests_fail_alone(exported: Exported, random_checkpoint: Path) -> None:
    with _Attacked(exported(CHUNK_MS), random_checkpoint, streams=4) as attacked:
        attacked.check(requests=150)


@pytest.mark.slow
def test_ten_thousand_malformed_requests(exported: Exported, random_checkpoint: Path) -> None:
    with _Attacked(exported(CHUNK_MS), random_checkpoint, streams=100) as attacked:
        attacked.check(requests=5_000)  # by then each slot has been taken, and has its memory
        before_mib = attacked.resident_mib()
        attacked.check(requests=5_000)
        assert attacked.resident_mib() - before_mib < 100


class _Attacked:
    """A server that answers live streams and malformed requests at once."""

    def __init__(self, repository: Path, checkpoint: Path, streams: int) -> None:
        self._repository = repository
        self._checkpoint = checkpoint
        self._streams = streams
        self._samples = load_recordings()[0].samples[: 3 * SAMPLE_RATE_HZ]

    def __enter__(self) -> _Attacked:
        with ExitStack() as stack:
            self._triton = stack.enter_context(running(self._repository))
            self._open = stack.pop_all()
        url, models = self._triton.grpc_url, read_repository(self._repository).models
        self._attacker = Attacker(url, list(models), seed=1)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def check(self, requests: int) -> None:
        """Send malformed requests; check the texts of the streams, and what the refusals say."""
        transcripts = asyncio.run(self._transcribe_under(requests))
        assert self._triton.process.exit_code is None
        url, metrics_url = self._triton.grpc_url, self._triton.metrics_url
        service = Service.of(url, metrics_url, self._checkpoint, CHUNK_MS)
        [reference] = service.references([self._samples])
        for transcript in transcripts:
            service.assert_equal(transcript, reference)
        assert len(self._attacker.messages) > requests / 3
        for message in self._attacker.messages:
            assert len(message) < LONGEST_MESSAGE, message
            assert str(self._repository) not in message
            assert ".py" not in message

    async def _transcribe_under(self, requests: int) -> list[Transcript]:
        """Return transcripts of streams that go on until each malformed request is answered."""
        attack = asyncio.create_task(asyncio.to_thread(self._attacker.send, requests))
        transcripts: list[Transcript] = []
        async with connect_async(self._triton.grpc_url) as client:
            while not attack.done():
                streams = (_transcribe(client, self._samples) for _ in range(self._streams))
                transcripts += await asyncio.gather(*streams)
        await attack
        return transcripts

    def resident_mib(self) -> float:
        """Return the memory of tritonserver and its stages."""
        server = psutil.Process(self._triton.process.pid)
        processes = [server, *server.children(recursive=True)]
        return sum(process.memory_info().rss for process in processes) / 2**20


async def _transcribe(client: AsyncClient, samples: np.ndarray) -> Transcript:
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        await stream.send(samples)
        return await stream.finish()
