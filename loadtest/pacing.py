"""Hold a number of live streams in real time, and measure how late their text comes.

Open loop: chunk k of a stream is due at ``start + (k + 1) * chunk`` on an absolute clock, whether
or not the answer to chunk k - 1 has come. A chunk that has to wait for that answer is sent late,
and the waiting counts as its latency.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import numpy as np
from earshot import AsyncClient, ConnectionFailed, EarshotError, connect_async
from numpy.typing import NDArray

from loadtest.speech import SAMPLE_RATE_HZ, Samples, from_offset

WARM_UP_S = 2.0
LATE_MS = 10.0
"""A send that comes so much after its time, with nothing to wait for, is the generator's fault."""
LATE_SHARE = 0.01
"""More late sends than this, and the run says nothing about the server."""


@dataclass
class Level:
    """What was seen while ``streams`` streams were held for ``hold_s`` seconds."""

    streams: int
    hold_s: float
    chunk_ms: int
    latencies_ms: list[float] = field(default_factory=list)
    lateness_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the chunk latency: chunk due to its text."""
        return self.percentile_ms(99)

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the chunk latency."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else np.inf

    @property
    def valid(self) -> bool:
        """Whether the generator kept its own times."""
        late = np.array(self.lateness_ms) > LATE_MS
        return len(late) > 0 and bool(late.mean() <= LATE_SHARE)

    @property
    def passes(self) -> bool:
        """Whether text came within a chunk's time and no stream failed."""
        return not self.failures and self.p99_ms < self.chunk_ms


def hold(url: str, speech: Samples, streams: int, hold_s: float) -> Level:
    """Hold ``streams`` live streams against the server at ``url`` for ``hold_s`` seconds."""
    return asyncio.run(_hold(url, speech, streams, hold_s))


async def _hold(url: str, speech: Samples, streams: int, hold_s: float) -> Level:
    async with connect_async(url) as client:
        level = Level(streams, hold_s, client.info.chunk_ms)
        begin = time.monotonic() + 0.2
        await asyncio.gather(*(_speak(client, speech, begin, level) for _ in range(streams)))
    return level


async def _speak(client: AsyncClient, speech: Samples, begin: float, level: Level) -> None:
    """One live speaker: starts at a random place of the speech and a random phase of the chunk."""
    info = client.info
    chunk_s = info.chunk_ms / 1000
    start = begin + random.uniform(0, chunk_s)
    chunks = int((WARM_UP_S + level.hold_s) / chunk_s)
    samples = from_offset(speech, random.randrange(len(speech)), chunks * info.chunk_samples)
    pieces = _pieces(samples, info.chunk_samples, info.lead_samples)
    # The lead makes the first chunk shorter by its length.
    start -= info.lead_samples / SAMPLE_RATE_HZ
    try:
        async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            answered = start
            for index, piece in enumerate(pieces):
                due = start + (index + 1) * chunk_s
                await asyncio.sleep(due - time.monotonic())
                awake = time.monotonic()
                [result] = await stream.send(piece)
                if due >= begin + WARM_UP_S:
                    level.latencies_ms.append(1000 * (result.received_s - due))
                    if answered <= due:  # else it is the server that made this chunk late
                        level.lateness_ms.append(1000 * (awake - due))
                answered = result.received_s
    except (EarshotError, ConnectionFailed) as error:
        level.failures.append(f"{type(error).__name__}: {error}")


def _pieces(samples: Samples, chunk_samples: int, lead_samples: int) -> list[NDArray[np.float32]]:
    """Cut where the stream's chunks end."""
    first = chunk_samples - lead_samples
    whole = (len(samples) - first) // chunk_samples
    return np.split(samples, [first + index * chunk_samples for index in range(whole + 1)])[:-1]
