"""A late chunk leaves no slot taken in any stage of the real ensemble."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import earshot
import numpy as np
import pytest

from server.launch import Triton
from tests.support.launcher import wait_for
from tests.support.metrics import metric
from tests.support.project import Exported, Served

pytestmark = pytest.mark.triton

STREAMS = 20
CHUNK_MS = 320
STAGES = ("feature_extractor", "encoder", "decoder")
IMPATIENT = earshot.Timeouts(queue_s=30, chunk_s=0.004, close_s=60)


@pytest.fixture(scope="module")
def triton(exported: Exported, served: Served) -> Triton:
    return served(exported(CHUNK_MS))


def speech(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.1, 0.1, 16 * CHUNK_MS * 5).astype(np.float32)


def taken(triton: Triton) -> list[float]:
    """Return how many slots are taken in each stage."""
    return [metric(triton, "earshot_live_streams", stage) for stage in STAGES]


@contextmanager
def all_ended(triton: Triton) -> Iterator[None]:
    """After the block, wait until no slot is taken; none may be freed because it was idle."""

    def expired() -> list[float]:
        return [metric(triton, "earshot_expired_streams_total", stage) for stage in STAGES]

    before = expired()
    yield
    wait_for(lambda: not any(taken(triton)))
    assert expired() == before


def time_out(client: earshot.Client, seed: int) -> bool:
    """Return True if a chunk was late."""
    try:
        with client.stream(sample_rate_hz=16000) as stream:
            for piece in np.array_split(speech(seed), 10):
                stream.send(piece)
    except earshot.ChunkTimeout:
        return True
    return False


async def time_out_async(client: earshot.AsyncClient, seed: int) -> bool:
    try:
        async with client.stream(sample_rate_hz=16000) as stream:
            for piece in np.array_split(speech(seed), 10):
                await stream.send(piece)
    except earshot.ChunkTimeout:
        return True
    return False


def test_sync(triton: Triton) -> None:
    with (
        earshot.connect(triton.grpc_url, timeouts=IMPATIENT) as client,
        ThreadPoolExecutor(STREAMS) as pool,
        all_ended(triton),
    ):
        late = list(pool.map(lambda seed: time_out(client, seed), range(STREAMS)))
        assert any(late)


def test_async(triton: Triton) -> None:
    async def main() -> None:
        async with earshot.connect_async(triton.grpc_url, timeouts=IMPATIENT) as client:
            late = await asyncio.gather(*(time_out_async(client, s) for s in range(STREAMS)))
            assert any(late)

    with all_ended(triton):
        asyncio.run(main())


def test_the_metric_counts_streams(triton: Triton) -> None:
    """Else the tests above would hold for a metric that is always 0."""
    with (
        all_ended(triton),
        earshot.connect(triton.grpc_url) as client,
        client.stream(sample_rate_hz=16000) as stream,
    ):
        stream.send(speech(0))
        wait_for(lambda: taken(triton) == [1, 1, 1])
