"""Measure the server's CPU time for live streams on recognizers of one repository, in turn.

Recognizers with heads share all other models with their base, so the additional time is the cost of
their heads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar, Literal

import earshot

from loadtest.audio.recordings import Audio
from loadtest.compare.saturate import StreamsFailed
from loadtest.live.streams import live_streams
from loadtest.result.machine import cpu_model, now, this_command, usable_cores
from loadtest.result.stored import Stored
from loadtest.service.connection import connect_async
from loadtest.service.server import ServerProcess

SCHEMA = 1
WARM_UP_S = 3.0


@dataclass(frozen=True)
class RecognizerCost:
    """The cost of live streams on one recognizer, over all rounds."""

    recognizer: str
    heads: int
    labels: int
    """Number of labels of all heads."""
    chunks: int
    late_chunks: int
    """Chunks answered more than a chunk after they were due; many of them mean an overloaded
    machine."""
    cpu_ms_per_stream_s: dict[str, float]
    """Milliseconds of CPU time per second of a stream, by process of the server."""
    streams_per_core: float
    ratio: float
    """Streams per core, relative to the first recognizer."""


@dataclass(frozen=True)
class HeadCostResult(Stored):
    """The document of a comparison."""

    NOUN: ClassVar[str] = "heads"

    schema: int
    kind: Literal["heads"]
    recognizers: list[RecognizerCost]
    streams: int
    rounds: int
    hold_s: float
    """Length of the hold of each recognizer in each round."""
    checkpoint: str
    precision: str
    chunk_ms: int
    cpu_model: str
    cpu_cores: int
    versions: dict[str, str]
    command: str
    started_at: str


@dataclass
class _Sums:
    """Counters of one recognizer over the rounds."""

    info: earshot.ServerInfo
    cpu_s: dict[str, float]
    stream_s: float = 0.0
    chunks: int = 0
    late_chunks: int = 0


async def compare(
    server: ServerProcess,
    models: Sequence[str | None],
    speech: Audio,
    streams: int,
    rounds: int,
    hold_s: float,
    announce: Callable[[str], None],
) -> HeadCostResult:
    """Hold `streams` live streams on each recognizer in turn, round after round.

    Args:
        server: A server of all recognizers, without other load.
        models: Recognizers as for `earshot.connect`; the others are compared with the first.
        speech: Audio that the streams loop over, each from a different offset.

    Raises:
        StreamsFailed: A stream failed.
        earshot.EarshotError: The server cannot be reached, or has no such model.
    """
    started_at = now()
    sums: dict[str | None, _Sums] = {}
    for number in range(rounds):
        for model in models:
            announce(f"round {number + 1} of {rounds}, {model or 'default'}, {streams} streams")
            async with connect_async(server.url, model) as client:
                of_model = sums.setdefault(model, _Sums(client.info, {}))
                await _hold(server, client, speech, streams, hold_s, of_model)
    return _result(list(sums.values()), streams, rounds, hold_s, started_at)


async def _hold(
    server: ServerProcess,
    client: earshot.AsyncClient,
    speech: Audio,
    streams: int,
    hold_s: float,
    sums: _Sums,
) -> None:
    chunk_s = client.info.chunk_ms / 1000
    async with live_streams(server.url, [client.info.name or None], speech, streams) as tally:
        await asyncio.sleep(WARM_UP_S)
        first, before = len(tally.latencies_ms), server.cpu_s()
        await asyncio.sleep(hold_s)
        latencies_ms, after = tally.latencies_ms[first:], server.cpu_s()
    if tally.failures:
        raise StreamsFailed(f"{len(tally.failures)} streams failed: {tally.failures[0]}")
    sums.chunks += len(latencies_ms)
    sums.late_chunks += sum(latency_ms > 1000 * chunk_s for latency_ms in latencies_ms)
    sums.stream_s += len(latencies_ms) * chunk_s
    for name, used_s in after.items():
        sums.cpu_s[name] = sums.cpu_s.get(name, 0.0) + used_s - before.get(name, 0.0)


def _result(
    sums: Sequence[_Sums], streams: int, rounds: int, hold_s: float, started_at: str
) -> HeadCostResult:
    info = sums[0].info
    first = _streams_per_core(sums[0])
    return HeadCostResult(
        schema=SCHEMA,
        kind="heads",
        recognizers=[_cost(each, first) for each in sums],
        streams=streams,
        rounds=rounds,
        hold_s=hold_s,
        checkpoint=info.model,
        precision=info.precision,
        chunk_ms=info.chunk_ms,
        cpu_model=cpu_model(),
        cpu_cores=usable_cores(),
        versions={"server": info.server, "onnxruntime": version("onnxruntime")},
        command=this_command(),
        started_at=started_at,
    )


def _cost(sums: _Sums, first: float) -> RecognizerCost:
    per_core = _streams_per_core(sums)
    return RecognizerCost(
        recognizer=sums.info.name or "default",
        heads=len(sums.info.heads),
        labels=sum(len(head.labels) for head in sums.info.heads),
        chunks=sums.chunks,
        late_chunks=sums.late_chunks,
        cpu_ms_per_stream_s={
            name: round(1000 * used_s / sums.stream_s, 3)
            for name, used_s in sorted(sums.cpu_s.items())
        },
        streams_per_core=round(per_core, 1),
        ratio=round(per_core / first, 3),
    )


def _streams_per_core(sums: _Sums) -> float:
    return sums.stream_s / sum(sums.cpu_s.values())
