"""No request, however malformed, harms another; `make fuzz` sends ten thousand.

Every model of the server is called by name, as anybody who reaches the port can, while live streams
check their text.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import earshot
import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from export.adapters import install as adapters
from export.checkpoint import load_checkpoint
from export.heads import export as heads
from export.install import replacing
from export.recordings import load_recordings
from server.launch import Triton, running
from tests.support.adapters import write_random_adapter
from tests.support.fake_recognizer import PATIENT
from tests.support.fuzz_requests import malformed_request
from tests.support.heads import write_random_heads
from tests.support.parity_record import record
from tests.support.project import (
    ADAPTED_CHUNK_MS,
    ADAPTER_RANK,
    OFFLINE_NAMES,
    Exported,
    ExportedOffline,
)

pytestmark = pytest.mark.triton

AT_ONCE = 16
REQUESTS = int(os.environ.get("EARSHOT_FUZZ_REQUESTS", "10000"))
"""Of the slow test."""
WIDTH = 32
"""Of the random checkpoint's encoder."""
GROWTH_BYTES = 64 * 2**20
LONGEST_MESSAGE = 500
"""The longest of Triton's own, about a wrong shape."""

# The generated protobuf classes carry no types.
_pb: Any = service_pb2
_stubs: Any = service_pb2_grpc
_aio: Any = grpc.aio


@pytest.fixture
def repository(
    exported: Exported,
    exported_offline: ExportedOffline,
    random_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A recognizer of streams with heads and an adapter, and one of files with an adapter."""
    # Enough for the gates here, which other tests are about.
    speech = [replace(one, samples=one.samples[:16000]) for one in load_recordings()[:1]]
    monkeypatch.setattr(adapters, "load_recordings", lambda: speech)
    monkeypatch.setattr(heads, "load_recordings", lambda: speech)
    folder = shutil.copytree(exported(ADAPTED_CHUNK_MS), tmp_path / "models")
    shutil.copytree(exported_offline("streaming"), folder, dirs_exist_ok=True)
    lookahead = ADAPTED_CHUNK_MS // 80 - 1
    written = write_random_heads(tmp_path / "heads", random_checkpoint, WIDTH, lookahead)
    options = heads.HeadOptions((written,), str(random_checkpoint), "orders", "", folder)
    heads.export_heads(options, load_checkpoint(str(random_checkpoint)), lambda step: None)
    adapter = tmp_path / "adapter"
    write_random_adapter(random_checkpoint, adapter, 1, ADAPTER_RANK)
    with replacing(folder) as new:
        for base, name in {"": "clinic", OFFLINE_NAMES["streaming"]: "court"}.items():
            adapters.install_adapter(adapter, random_checkpoint, new, base, name, lambda step: None)
    return folder


def test_malformed_requests_harm_nobody(repository: Path) -> None:
    check(repository, requests=320, streams=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_malformed_requests_leave_no_memory_behind(
    repository: Path, random_checkpoint: Path
) -> None:
    outcome = check(repository, requests=REQUESTS, streams=100)
    memory = [size_bytes for _, size_bytes in outcome.memory]
    record(
        "malformed requests to every model of a recognizer with files, heads and an adapter",
        f"{REQUESTS} requests beside 100 live streams",
        load_checkpoint(str(random_checkpoint)),
        answers=dict(outcome.answers),
        texts_checked=outcome.checked,
        texts_changed=len(outcome.changed),
        resident_mib_by_requests=dict(outcome.tenths()),
    )
    assert memory[-1] - memory[len(memory) // 5] < GROWTH_BYTES


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
        self.memory: list[tuple[int, int]] = []
        """Now and then, the requests so far and the bytes in memory of the server's processes."""

    def tenths(self) -> Iterator[tuple[int, int]]:
        """Yield requests and MiB in memory, at the start and after each tenth of the requests."""
        for tenth in range(11):
            wanted = tenth * self.memory[-1][0] // 10
            done, size_bytes = next(pair for pair in self.memory if pair[0] >= wanted)
            yield done, round(size_bytes / 2**20)


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
        size_bytes = sum(process.memory_info().rss for process in _processes(triton))
        outcome.memory.append((outcome.answers.total(), size_bytes))
        await asyncio.sleep(0.5)


def _processes(triton: Triton) -> list[psutil.Process]:
    server = psutil.Process(triton.process.pid)
    return [server, *server.children(recursive=True)]
