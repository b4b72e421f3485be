"""Simulate live users of a soak: most stream to the end, some pause, stall, or close early."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import earshot

from loadtest.audio.recordings import SAMPLE_RATE_HZ
from loadtest.audio.scripts import Script
from loadtest.live.samples import FELL_BEHIND_S, FinishedStream
from loadtest.service.connection import connect_async


class Behaviour(Enum):
    """The behaviour of a stream after its first part."""

    FINISH = "finished"
    PAUSE = "paused"
    """Send nothing for less than the server's limit, then continue."""
    STALL = "stalled"
    """Send nothing for longer than the limit, so that the server drops the stream."""
    CLOSE = "closed"


SHARES = {Behaviour.FINISH: 70, Behaviour.PAUSE: 10, Behaviour.STALL: 5, Behaviour.CLOSE: 15}
PAUSE_OF_LIMIT, STALL_OF_LIMIT = 0.3, 1.5
"""Lengths of a pause and a stall, as shares of the time after which the server drops a stream."""
AFTER_FAILURE_S = 1.0


@dataclass
class Tally:
    """The results of the streams so far."""

    ended: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    messages: dict[str, str] = field(default_factory=dict[str, str])
    finished: list[FinishedStream] = field(default_factory=list[FinishedStream])
    latency_ms: list[float] = field(default_factory=list[float])
    unanswered: int = 0


async def play_forever(
    client: earshot.AsyncClient, scripts: Sequence[Script], tally: Tally, until_s: float
) -> None:
    """Play one stream after another, starting at a random phase, until `until_s` (monotonic)."""
    await asyncio.sleep(random.uniform(0, 1))
    chunk_s = client.info.chunk_ms / 1000
    while time.monotonic() + chunk_s < until_s:
        number = random.randrange(len(scripts))
        behaviour = random.choices(list(SHARES), list(SHARES.values()))[0]
        try:
            await _play(client, number, scripts[number], behaviour, tally, until_s)
        except earshot.ServerBusy:
            tally.ended["refused"] += 1
            await asyncio.sleep(AFTER_FAILURE_S)
        except earshot.EarshotError as error:
            tally.failures[type(error).__name__] += 1
            tally.messages[type(error).__name__] = str(error)
            await asyncio.sleep(AFTER_FAILURE_S)


async def _play(
    client: earshot.AsyncClient,
    number: int,
    script: Script,
    behaviour: Behaviour,
    tally: Tally,
    until_s: float,
) -> None:
    info, samples = client.info, script.samples
    limit_s = info.sequence_idle_ms / 1000
    ends = range(info.chunk_samples - info.lead_samples, len(samples) + 1, info.chunk_samples)
    turn = random.randrange(1, max(2, len(ends)))
    results: list[earshot.ChunkResult] = []
    start_s, begin = time.monotonic(), 0
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        for index, end in enumerate(ends):
            if index == turn and behaviour is Behaviour.PAUSE:
                await asyncio.sleep(PAUSE_OF_LIMIT * limit_s)
                start_s += PAUSE_OF_LIMIT * limit_s
            elif index == turn and behaviour is Behaviour.STALL:
                return await _stall(stream, samples[begin:end], limit_s, tally)
            due_s = start_s + end / SAMPLE_RATE_HZ
            if (index == turn and behaviour is Behaviour.CLOSE) or due_s > until_s:
                break
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            results += await _send(stream, samples[begin:end], due_s, tally)
            begin = end
        else:
            chunks = len(results)
            results += await stream.send(samples[begin:])
            results += await stream.end()
            tally.ended["finished"] += 1
            tally.finished.append(_finished(number, results, chunks, complete=True))
            return None
    tally.ended["closed"] += 1
    tally.finished.append(_finished(number, results, len(results), complete=False))
    return None


async def _send(
    stream: earshot.AsyncStream, piece: object, due_s: float, tally: Tally
) -> list[earshot.ChunkResult]:
    try:
        results = await stream.send(piece)  # pyright: ignore
    except earshot.ServerBusy:
        raise
    except earshot.EarshotError:
        tally.unanswered += 1
        tally.latency_ms.append(1000 * max(FELL_BEHIND_S, time.monotonic() - due_s))
        raise
    tally.latency_ms.append(1000 * (time.monotonic() - due_s))
    return results


async def _stall(stream: earshot.AsyncStream, piece: object, limit_s: float, tally: Tally) -> None:
    """Send nothing for too long; the server must report that it has dropped the stream."""
    await asyncio.sleep(STALL_OF_LIMIT * limit_s)
    try:
        await stream.send(piece)  # pyright: ignore
    except earshot.StreamLost:
        tally.ended["stalled"] += 1
        return
    tally.failures["StallNotNoticed"] += 1
    tally.messages["StallNotNoticed"] = f"a stream went on after {STALL_OF_LIMIT * limit_s:g} s"


def _finished(
    script: int, results: Sequence[earshot.ChunkResult], chunks: int, *, complete: bool
) -> FinishedStream:
    tokens = tuple(token.id for result in results for token in result.tokens)
    return FinishedStream(
        script, chunks, complete, tokens, "".join(result.text for result in results)
    )


async def soak(
    url: str,
    model: str | None,
    scripts: Sequence[Script],
    streams: int,
    hold_s: float,
    tally: Tally,
) -> None:
    """Hold `streams` live streams for `hold_s`."""
    until_s = time.monotonic() + hold_s
    async with connect_async(url, model) as client:
        await asyncio.gather(
            *(play_forever(client, scripts, tally, until_s) for _ in range(streams))
        )
