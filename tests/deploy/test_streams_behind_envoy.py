"""Live streams through the deployed Envoy keep their replica while others come, drain and die."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import earshot
import numpy as np
import numpy.typing as npt
import pytest
from earshot import AsyncClient, AsyncStream, connect_async

from loadtest.faults.tcp_proxy import tcp_proxy
from server.errors import TritonDied
from server.launch import Triton, running
from tests.support.envoy import Envoy, envoy
from tests.support.fake_recognizer import (
    CHUNK_SAMPLES,
    PATIENT,
    RATE_HZ,
    FakeRecognizer,
    expected_words,
    noise,
    texts,
    write_repository,
)
from tests.support.launcher import wait_for
from tests.support.proxies import free_port

pytestmark = pytest.mark.triton

STREAMS = 8
# As long as what a client repeats to another replica.
CHUNKS = 24
# Where a server has gone, nobody receives an end.
TIMEOUTS = replace(PATIENT, close_s=1)


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
    repositories = {
        name: write_repository(tmp_path / name, tmp_path / f"{name}.log")
        for name in ("added", "dying", "draining")
    }
    with (
        running(repositories["added"]) as added,
        pytest.raises(TritonDied),
        running(repositories["dying"]) as dying,
        running(repositories["draining"]) as draining,
        envoy(tmp_path, [dying.grpc_url, draining.grpc_url]) as proxy,
    ):
        asyncio.run(
            _live_through(
                proxy,
                Replica(added, FakeRecognizer(added.grpc_url, tmp_path / "added.log")),
                Replica(dying, FakeRecognizer(dying.grpc_url, tmp_path / "dying.log")),
                Replica(draining, FakeRecognizer(draining.grpc_url, tmp_path / "draining.log")),
                samples,
            )
        )


async def _live_through(
    proxy: Envoy,
    added: Replica,
    dying: Replica,
    draining: Replica,
    samples: npt.NDArray[np.float32],
) -> None:
    parts = np.array_split(samples, 4)
    async with connect_async(proxy.url, timeouts=TIMEOUTS) as client:
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
        assert await asyncio.to_thread(draining.triton.process.wait, 300) == 0
        for transcript in transcripts:
            assert texts(transcript.words) == expected_words(samples)


def test_streams_of_a_node_that_vanishes_are_carried_on(tmp_path: Path) -> None:
    samples = noise(CHUNKS * CHUNK_SAMPLES)
    repository = write_repository(tmp_path / "models", tmp_path / "log")
    with (
        running(repository) as triton,
        tcp_proxy(triton.grpc_url) as node,
        envoy(tmp_path, [node.url]) as proxy,
        earshot.connect(proxy.url, timeouts=TIMEOUTS) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        stream.send(samples[: len(samples) // 2])
        node.silence()  # new connections reach the server again
        stream.send(samples[len(samples) // 2 :])
        assert texts(stream.finish().words) == expected_words(samples)
        assert len(stream.resumptions) == 1


def test_streams_keep_their_replicas_while_envoy_is_replaced(tmp_path: Path) -> None:
    samples = noise(CHUNKS * CHUNK_SAMPLES)
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    repository = write_repository(tmp_path / "models", tmp_path / "log")
    port = free_port()
    with (
        running(repository) as one,
        running(repository) as other,
        envoy(folders[0], replicas := [one.grpc_url, other.grpc_url], port=port) as old,
        earshot.connect(old.url, timeouts=TIMEOUTS) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        first, *rest = np.array_split(samples, CHUNKS)
        stream.send(first)
        with envoy(folders[1], replicas, port=port) as new:
            old.drain()
            for piece in rest:
                stream.send(piece)
                time.sleep(0.15)
            wait_for(lambda: old.connections() == 0)
            assert new.connections() == 1
            assert texts(stream.finish().words) == expected_words(samples)
    assert stream.resumptions == ()


def test_callers_are_told_when_there_is_no_replica(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "models", tmp_path / "log")
    with (
        running(repository) as triton,
        envoy(tmp_path, [triton.grpc_url]) as proxy,
        earshot.connect(proxy.url, timeouts=TIMEOUTS) as client,
    ):
        triton.process.terminate()
        proxy.wait_for_health(triton.grpc_url, healthy=False)
        with pytest.raises(earshot.ConnectionFailed, match="no healthy upstream"):
            client.stream(sample_rate_hz=RATE_HZ).send(noise(CHUNK_SAMPLES))
        with pytest.raises(earshot.ConnectionFailed, match="no healthy upstream"):
            earshot.connect(proxy.url)


def test_a_canary_takes_a_share_of_the_streams_and_is_withdrawn(tmp_path: Path) -> None:
    """The rehearsal of docs/platform.md: nothing of this is seen by a caller."""
    samples = noise(CHUNKS * CHUNK_SAMPLES)
    half = len(samples) // 2
    repositories = {
        name: write_repository(tmp_path / name, tmp_path / f"{name}.log")
        for name in ("stable", "canary")
    }
    with (
        running(repositories["stable"]) as stable,
        running(repositories["canary"]) as canary,
        envoy(tmp_path, [stable.grpc_url]) as proxy,
        earshot.connect(proxy.url, timeouts=TIMEOUTS) as client,
    ):
        recognizer = FakeRecognizer(canary.grpc_url, tmp_path / "canary.log")
        before = client.stream(sample_rate_hz=RATE_HZ)
        before.send(samples[:half])
        proxy.route_to([stable.grpc_url, canary.grpc_url])
        proxy.wait_for_health(canary.grpc_url, healthy=True)
        during = [client.stream(sample_rate_hz=RATE_HZ) for _ in range(3 * STREAMS)]
        for stream in during:
            stream.send(samples[:half])
        share = len(recognizer.streams_left_open())
        canary.process.terminate()
        after = [client.stream(sample_rate_hz=RATE_HZ) for _ in range(STREAMS)]
        for stream in after:
            stream.send(samples[:half])
        assert 0 < share == len(recognizer.streams_left_open()) < len(during)
        for stream in (before, *during, *after):
            stream.send(samples[half:])
            assert texts(stream.finish().words) == expected_words(samples)
            assert stream.resumptions == ()
        assert canary.process.wait(timeout_s=300) == 0


def _open(client: AsyncClient, count: int) -> list[AsyncStream]:
    return [client.stream(sample_rate_hz=RATE_HZ) for _ in range(count)]


async def _send(streams: Sequence[AsyncStream], samples: npt.NDArray[np.float32]) -> None:
    await asyncio.gather(*(stream.send(samples) for stream in streams))
