"""Simulate live users who come back when they are refused, as applications do."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import earshot

from loadtest.audio.recordings import SAMPLE_RATE_HZ
from loadtest.audio.scripts import Script
from loadtest.live.samples import FELL_BEHIND_S, FinishedStream
from loadtest.service.connection import connect_async

RETRY_S = 5.0
"""Mean time until a refused user comes back."""


@dataclass
class Tally:
    """The results of all users; times are monotonic."""

    chunks: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Time at which each chunk of an admitted stream was due, and its latency in ms."""
    refusals: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Time at which each refused stream asked, and the latency of the answer in ms."""
    failures: Counter[str] = field(default_factory=Counter[str])
    messages: dict[str, str] = field(default_factory=dict[str, str])
    finished: list[FinishedStream] = field(default_factory=list[FinishedStream])
    live: int = 0
    """Admitted streams that are currently open."""


async def user(
    client: earshot.AsyncClient,
    scripts: Sequence[Script],
    tally: Tally,
    arrives_s: float,
    until_s: float,
) -> None:
    """Arrive, then play one stream after another until `until_s`."""
    await asyncio.sleep(max(0.0, arrives_s - time.monotonic()))
    while time.monotonic() < until_s:
        number = random.randrange(len(scripts))
        asked_s = time.monotonic()
        try:
            await _play(client, number, scripts[number], tally, until_s)
        except earshot.ServerBusy:
            tally.refusals.append((asked_s, 1000 * (time.monotonic() - asked_s)))
            await asyncio.sleep(random.uniform(0.5, 1.5) * RETRY_S)
        except earshot.EarshotError as error:
            tally.failures[type(error).__name__] += 1
            tally.messages[type(error).__name__] = str(error)
            await asyncio.sleep(RETRY_S)


async def _play(
    client: earshot.AsyncClient, number: int, script: Script, tally: Tally, until_s: float
) -> None:
    info, samples = client.info, script.samples
    first = info.chunk_samples - info.lead_samples
    ends = range(first, len(samples) + 1, info.chunk_samples)
    results: list[earshot.ChunkResult] = []
    # The audio of the first chunk is already there, so the server is asked at once.
    start_s, begin = time.monotonic() - first / SAMPLE_RATE_HZ, 0
    admitted = False
    try:
        async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            for end in ends:
                due_s = start_s + end / SAMPLE_RATE_HZ
                if due_s > until_s:
                    break
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                results += await _send(stream, samples[begin:end], due_s, tally)
                begin = end
                if not admitted:
                    admitted = True
                    tally.live += 1
    finally:
        tally.live -= admitted
    tally.finished.append(_cut(number, results))


async def _send(
    stream: earshot.AsyncStream, piece: object, due_s: float, tally: Tally
) -> list[earshot.ChunkResult]:
    try:
        results = await stream.send(piece)  # pyright: ignore
    except earshot.ServerBusy:
        raise
    except earshot.EarshotError:
        tally.chunks.append((due_s, 1000 * max(FELL_BEHIND_S, time.monotonic() - due_s)))
        raise
    tally.chunks.append((due_s, 1000 * (time.monotonic() - due_s)))
    return results


def _cut(script: int, results: Sequence[earshot.ChunkResult]) -> FinishedStream:
    tokens = tuple(token.id for result in results for token in result.tokens)
    text = "".join(result.text for result in results)
    return FinishedStream(script, len(results), False, tokens, text)


async def offer(
    url: str,
    model: str | None,
    scripts: Sequence[Script],
    users: int,
    arrival_s: float,
    hold_s: float,
    tally: Tally,
) -> None:
    """Let `users` users arrive one by one within `arrival_s`, and stay for `hold_s` after that."""
    now_s = time.monotonic()
    until_s = now_s + arrival_s + hold_s
    async with connect_async(url, model) as client:
        await asyncio.gather(
            *(
                user(client, scripts, tally, now_s + arrival_s * number / users, until_s)
                for number in range(users)
            )
        )
