"""No request, however malformed, harms another; `make fuzz` sends ten thousand.

Every model of the server is called by name, as anybody who reaches the port can, while live streams
check their text.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import earshot
import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from export.recordings import load_recordings
from server.launch import Triton, running
from tests.support.fake_recognizer import PATIENT
from tests.support.fuzz_requests import malformed_request
from tests.support.project import Exported

pytestmark = pytest.mark.triton

AT_ONCE = 16
GROWTH_BYTES = 64 * 2**20
LONGEST_MESSAGE = 500
"""The longest of Triton's own, about a wrong shape."""

# The generated protobuf classes carry no types.
_pb: Any = service_pb2
_stubs: Any = service_pb2_grpc
_aio: Any = grpc.aio


def test_malformed_requests_harm_nobody(exported: Exported) -> None:
    check(exported(320), requests=160, streams=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_malformed_requests_leave_no_memory_behind(exported: Exported) -> None:
    outcome = check(exported(320), requests=10_000, streams=100)
    settled = outcome.rss_bytes[len(outcome.rss_bytes) // 5]
    assert outcome.rss_bytes[-1] - settled < GROWTH_BYTES


def check(repository: Path, requests: int, streams: int) -> Outcome:
    """Send malformed requests beside live streams, and check the streams and the refusals."""
    with running(repository) as triton:
        before = _processes(triton)
        outcome = asyncio.run(_attack(triton, requests, streams))
        assert triton.process.exit_code is None
        assert {process.pid for process in _processes(triton)} == {p.pid for p in before}
    print(
        f"{requests} malformed requests: {dict(outcome.answers)}; {outcome.checked} texts checked"
    )
    assert outcome.changed == []
    assert outcome.checked >= streams
    assert outcome.answers.total() > outcome.answers["OK"]
    for message in outcome.messages:
        assert len(message) < LONGEST_MESSAGE, message
        assert str(repository) not in message
        assert ".py" not in message
        assert "Traceback" not in message
    return outcome


class Outcome:
    """What the live streams and the senders of malformed requests have seen."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.messages: set[str] = set()
        self.changed: list[str] = []
        self.checked = 0
        self.rss_bytes: list[int] = []


async def _attack(triton: Triton, requests: int, streams: int) -> Outcome:
    outcome = Outcome()
    speech = [recording.samples[:32000] for recording in load_recordings()]
    async with (
        earshot.connect_async(triton.grpc_url, timeouts=PATIENT) as client,
        _aio.insecure_channel(triton.grpc_url) as channel,
    ):
        quiet = [await _transcribe(client, samples) for samples in speech]
        stub = _stubs.GRPCInferenceServiceStub(channel)
        over = asyncio.Event()
        live = [
            asyncio.create_task(_live(client, speech, quiet, number, over, outcome))
            for number in range(streams)
        ]
        watch = asyncio.create_task(_watch(triton, over, outcome))
        models = await _models(stub)
        await asyncio.gather(
            *(_send(stub, models, seed, requests, outcome) for seed in range(AT_ONCE))
        )
        over.set()
        await asyncio.gather(*live, watch)
    return outcome


async def _models(stub: Any) -> list[Any]:
    index = await stub.RepositoryIndex(_pb.RepositoryIndexRequest())
    requests = [_pb.ModelMetadataRequest(name=entry.name) for entry in index.models]
    return [await stub.ModelMetadata(request) for request in requests]


async def _send(
    stub: Any, models: Sequence[Any], seed: int, requests: int, outcome: Outcome
) -> None:
    random = np.random.default_rng(seed)
    for number in range(requests // AT_ONCE):
        request = malformed_request(models[number % len(models)], random)
        try:
            await stub.ModelInfer(request, timeout=20)
            outcome.answers["OK"] += 1
        except grpc.RpcError as failure:
            error: Any = failure
            outcome.answers[error.code().name] += 1
            outcome.messages.add(error.details())


async def _live(
    client: earshot.AsyncClient,
    speech: Sequence[np.ndarray],
    quiet: Sequence[str],
    number: int,
    over: asyncio.Event,
    outcome: Outcome,
) -> None:
    """Transcribe one recording again and again; each time the text is that of a quiet server."""
    which = number % len(speech)
    while not over.is_set():
        try:
            text = await _transcribe(client, speech[which])
        except earshot.ServerBusy:
            await asyncio.sleep(0.5)
            continue
        except earshot.StreamClosed:  # the client: the senders have failed, and their error comes
            return
        except earshot.EarshotError as error:
            text = f"{type(error).__name__}: {error}"[:300]
        outcome.checked += 1
        if text != quiet[which]:
            outcome.changed.append(text)


async def _transcribe(client: earshot.AsyncClient, samples: np.ndarray) -> str:
    async with client.stream(sample_rate_hz=16000) as stream:
        await stream.send(samples)
        return (await stream.finish()).text


async def _watch(triton: Triton, over: asyncio.Event, outcome: Outcome) -> None:
    while not over.is_set():
        outcome.rss_bytes.append(sum(p.memory_info().rss for p in _processes(triton)))
        await asyncio.sleep(0.5)


def _processes(triton: Triton) -> list[psutil.Process]:
    server = psutil.Process(triton.process.pid)
    return [server, *server.children(recursive=True)]
