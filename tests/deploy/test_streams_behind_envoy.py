"""Live streams through the deployed Envoy keep their replica while others come, drain and die."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from earshot import AsyncClient, AsyncStream, Transcript, connect_async

from export.audio import SAMPLE_RATE_HZ
from export.recordings import load_recordings
from server.errors import TritonDied
from server.launch import Triton, running
from tests.support.envoy import Envoy, envoy
from tests.support.metrics import metric
from tests.support.project import Exported
from tests.support.streaming_service import Service

pytestmark = pytest.mark.triton

CHUNK_MS = 320
STREAMS = 8
SECONDS = 6


@pytest.fixture
def samples() -> np.ndarray:
    return np.concatenate([recording.samples for recording in load_recordings()])[
        : SECONDS * SAMPLE_RATE_HZ
    ]


def test_no_word_is_lost_while_replicas_come_drain_and_die(
    exported: Exported, random_checkpoint: Path, samples: np.ndarray, tmp_path: Path
) -> None:
    repository = exported(CHUNK_MS)
    with (
        running(repository) as added,
        pytest.raises(TritonDied),
        running(repository) as dying,
        running(repository) as draining,
        envoy(tmp_path, [dying.grpc_url, draining.grpc_url]) as proxy,
    ):
        transcripts = asyncio.run(_live_through(proxy, dying, draining, added, samples))
        service = Service.of(added.grpc_url, added.metrics_url, random_checkpoint, CHUNK_MS)
    [reference] = service.references([samples])
    for transcript in transcripts:
        service.assert_equal(transcript, reference)


async def _live_through(
    proxy: Envoy, dying: Triton, draining: Triton, added: Triton, samples: np.ndarray
) -> list[Transcript]:
    parts = np.array_split(samples, 4)
    async with connect_async(proxy.url) as client:
        streams = _open(client, STREAMS)
        await _send(streams, parts[0])
        before = {server.grpc_url: _live(server) for server in (dying, draining)}
        assert all(before.values()), before

        everywhere = [server.grpc_url for server in (dying, draining, added)]
        await asyncio.to_thread(proxy.route_to, everywhere)
        await asyncio.to_thread(proxy.wait_for_health, added.grpc_url, healthy=True)
        await _send(streams, parts[1])
        assert _live(added) == 0  # a new replica takes none of the open streams

        draining.process.terminate()
        await asyncio.to_thread(proxy.wait_for_health, draining.grpc_url, healthy=False)
        await _send(streams, parts[2])
        late = _open(client, STREAMS)
        await _send(late, samples)
        assert not any(stream.resumptions for stream in streams + late)
        assert _live(added) > 0

        os.kill(dying.process.pid, signal.SIGKILL)
        await _send(streams, parts[3])
        transcripts = await asyncio.gather(*(stream.finish() for stream in streams + late))
        resumed = [stream for stream in streams if stream.resumptions]
        assert len(resumed) == before[dying.grpc_url]
        assert await asyncio.to_thread(draining.process.wait, 30) == 0
        return transcripts


def _open(client: AsyncClient, count: int) -> list[AsyncStream]:
    return [client.stream(sample_rate_hz=SAMPLE_RATE_HZ) for _ in range(count)]


async def _send(streams: Sequence[AsyncStream], samples: np.ndarray) -> None:
    await asyncio.gather(*(stream.send(samples) for stream in streams))


def _live(server: Triton) -> int:
    return int(metric(server, "earshot_live_streams", "feature_extractor"))
