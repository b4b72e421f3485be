"""Stream whole recordings in real time, with the client that applications use.

Unlike the streams of other measurements, they continue on another server if they lose theirs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import earshot

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio

PATIENT = earshot.Timeouts(queue_s=60, chunk_s=60, finish_s=60, resume_s=120)
"""Long timeouts: the servers may share a machine with the streams, or still have to start."""


@dataclass(frozen=True)
class Ended:
    """A stream that has ended."""

    transcript: earshot.Transcript
    resumptions: tuple[earshot.Resumption, ...]


async def play(client: earshot.AsyncClient, samples: Audio) -> Ended:
    """Stream samples [N] in real time; raises as `AsyncStream.send`."""
    piece = SAMPLE_RATE_HZ // 10
    clock = asyncio.get_running_loop()
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        began_s = clock.time()
        for start in range(0, len(samples), piece):
            spoken_s = min(start + piece, len(samples)) / SAMPLE_RATE_HZ
            await asyncio.sleep(began_s + spoken_s - clock.time())
            await stream.send(samples[start : start + piece])
        return Ended(await stream.finish(), stream.resumptions)
