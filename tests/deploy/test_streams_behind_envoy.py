"""Live streams through the deployed Envoy keep their replica while others come, drain and die."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from earshot import AsyncClient, AsyncStream, connect_async

from server.errors import TritonDied
from server.launch import Triton, running
from tests.support.envoy import Envoy, envoy
from tests.support.fake_recognizer import (
    CHUNK_SAMPLES,
    RATE_HZ,
    FakeRecognizer,
    expected_words,
    noise,
    texts,
    write_repository,
)

pytestmark = pytest.mark.triton

STREAMS = 8
# As long as what a client repeats to another replica.
CHUNKS = 24


@dataclass(frozen=True)
class Replica:
    """A Triton behind Envoy."""

    triton: Triton
    recognizer: FakeRecognizer

    @property
    def url(self) -> str:
        """Return its address, as Envoy knows it."""
        return self.triton.grpc_url

    def live(self) -> int:
        """Return how many streams are open here."""
        return len(self.recognizer.streams_left_open())


def test_no_word_is_lost_while_replicas_come_drain_and_die(tmp_path: Path) -> None:
    samples = noise(CHUNKS * CHUNK_SAMPLES)
    names = ("added", "dying", "draining")
    repositories = {
        name: write_repository(tmp_path / name, tmp_path / f"{name}.log") for name in names
    }
    with (
        running(repositories["added"]) as added,
        pytest.raises(TritonDied),
        running(repositories["dying"]) as dying,
        running(repositories["draining"]) as draining,
        envoy(tmp_path, [dying.grpc_url, draining.grpc_url]) as proxy,
    ):
        replicas = [
            Replica(triton, FakeRecognizer(triton.grpc_url, tmp_path / f"{name}.log"))
            for name, triton in zip(names, (added, dying, draining), strict=True)
        ]
        said = asyncio.run(_live_through(proxy, *replicas, samples))
    assert said == [expected_words(samples)] * len(said)


async def _live_through(
    proxy: Envoy,
    added: Replica,
    dying: Replica,
    draining: Replica,
    samples: npt.NDArray[np.float32],
) -> list[list[str]]:
    parts = np.array_split(samples, 4)
    async with connect_async(proxy.url) as client:
        streams = _open(client, STREAMS)
        await _send(streams, parts[0])
        assert dying.live() + draining.live() == STREAMS

        await asyncio.to_thread(proxy.route_to, [added.url, dying.url, draining.url])
        await asyncio.to_thread(proxy.wait_for_health, added.url, healthy=True)
        await _send(streams, parts[1])
        assert added.live() == 0  # a new replica takes none of the open streams

        draining.triton.process.terminate()
        late = _open(client, STREAMS)
        await _send(late, samples)  # some are refused by the replica that drains, and go elsewhere
        await _send(streams, parts[2])
        assert not any(stream.resumptions for stream in streams + late)
        assert added.live() > 0

        lost = dying.live()
        os.kill(dying.triton.process.pid, signal.SIGKILL)
        await _send(streams, parts[3])
        transcripts = await asyncio.gather(*(stream.finish() for stream in streams + late))
        assert sum(len(stream.resumptions) for stream in streams + late) == lost
        assert await asyncio.to_thread(draining.triton.process.wait, 30) == 0
        return [texts(transcript.words) for transcript in transcripts]


def _open(client: AsyncClient, count: int) -> list[AsyncStream]:
    return [client.stream(sample_rate_hz=RATE_HZ) for _ in range(count)]


async def _send(streams: Sequence[AsyncStream], samples: npt.NDArray[np.float32]) -> None:
    await asyncio.gather(*(stream.send(samples) for stream in streams))
