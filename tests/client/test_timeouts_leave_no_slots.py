"""A late chunk leaves no slot taken in any stage of the real ensemble."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import earshot
import numpy as np
import pytest

from server.launch import Triton
from tests.support.project import Exported, Served

pytestmark = pytest.mark.triton

STREAMS = 20
CHUNK_MS = 320
WITHIN_S = 5.0
IMPATIENT = earshot.Timeouts(queue_s=30, chunk_s=0.004)


@pytest.fixture(scope="module")
def triton(exported: Exported, served: Served) -> Triton:
    return served(exported(CHUNK_MS))


def speech(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.1, 0.1, 16 * CHUNK_MS * 5).astype(np.float32)


def live_streams(triton: Triton) -> dict[str, float]:
    """Return the taken slots per model, summed over its instances."""
    page = urllib.request.urlopen(triton.metrics_url).read().decode()
    found = re.findall(r'^earshot_live_streams{.*model="(\w+)".*} (\S+)$', page, re.MULTILINE)
    live: defaultdict[str, float] = defaultdict(float)
    for model, value in found:
        live[model] += float(value)
    return dict(live)


def wait_for(triton: Triton, is_so: Callable[[float], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not all(map(is_so, (live := live_streams(triton)).values())) or len(live) < 2:
        assert time.monotonic() < deadline_s, live
        time.sleep(0.05)


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
    ):
        late = list(pool.map(lambda seed: time_out(client, seed), range(STREAMS)))
        assert any(late)
        wait_for(triton, lambda live: live == 0)


def test_async(triton: Triton) -> None:
    async def main() -> None:
        async with earshot.connect_async(triton.grpc_url, timeouts=IMPATIENT) as client:
            late = await asyncio.gather(*(time_out_async(client, s) for s in range(STREAMS)))
            assert any(late)
            await asyncio.to_thread(wait_for, triton, lambda live: live == 0)

    asyncio.run(main())


def test_the_metric_counts_streams(triton: Triton) -> None:
    """Else the tests above would hold for a metric that is always 0."""
    with earshot.connect(triton.grpc_url) as client, client.stream(sample_rate_hz=16000) as stream:
        stream.send(speech(0))
        wait_for(triton, lambda live: live == 1)
    wait_for(triton, lambda live: live == 0)
