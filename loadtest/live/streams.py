"""Keep live streams open in real time, which use several recognizers in turn."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import earshot

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio
from loadtest.audio.scripts import loop_from
from loadtest.service.connection import connect_async

STREAM_S = 8.0
"""Length of a stream; streams end and begin all the time."""


@dataclass
class Tally:
    """The results of the streams so far."""

    latencies_ms: list[float] = field(default_factory=list[float])
    """Latency of each chunk, from the time at which its last sample was due."""
    failures: list[str] = field(default_factory=list[str])


@asynccontextmanager
async def live_streams(
    url: str, models: Sequence[str | None], speech: Audio, streams: int
) -> AsyncGenerator[Tally]:
    """Keep `streams` live streams open for the length of the block, spread over `models`."""
    tally = Tally()
    turns = itertools.cycle(models)
    tasks = [
        asyncio.create_task(_user(url, turns, speech, number / streams, tally))
        for number in range(streams)
    ]
    try:
        yield tally
    finally:
        # A user never ends by itself: if it has ended, it has failed with an unexpected error.
        tally.failures += [repr(task.exception()) for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _user(
    url: str, turns: Iterator[str | None], speech: Audio, phase: float, tally: Tally
) -> None:
    """Play one stream after another; the first is shorter, so that they do not end together."""
    length_s = STREAM_S * (0.25 + 0.75 * phase)
    while True:
        try:
            async with connect_async(url, next(turns)) as client:
                await _play(client, speech, phase, length_s, tally)
        except earshot.EarshotError as error:
            tally.failures.append(str(error))
            await asyncio.sleep(1)
        length_s = STREAM_S


async def _play(
    client: earshot.AsyncClient, speech: Audio, phase: float, length_s: float, tally: Tally
) -> None:
    chunk = client.info.chunk_samples
    chunk_s = chunk / SAMPLE_RATE_HZ
    await asyncio.sleep(phase * chunk_s)
    due_s = time.monotonic()
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        for number in range(max(1, round(length_s / chunk_s))):
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            position = round(phase * len(speech)) + number * chunk
            if await stream.send(loop_from(speech, position, chunk)):
                tally.latencies_ms.append(1000 * (time.monotonic() - due_s))
            due_s += chunk_s
