"""Saturate a server with more streams than it can sustain, to count CPU time per chunk."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio
from loadtest.audio.scripts import loop_from
from loadtest.service.server import ServerProcess
from loadtest.service.stages import FUSED, STAGES, by_stage

if TYPE_CHECKING:
    from earshot import AsyncClient, ServerInfo

WARM_UP_S = 3.0


class StreamsFailed(Exception):
    """A stream failed, so fewer streams than intended saturated the server."""


@dataclass(frozen=True)
class SaturatedRun:
    """Figures of the service while every stream always has a chunk waiting."""

    info: ServerInfo
    chunks: int
    seconds: float
    cpu_ms_per_chunk: dict[str, float]
    mean_batch: dict[str, float]

    @property
    def batch(self) -> float:
        """Return the mean batch size of the model that does most of the work."""
        return self.mean_batch.get("encoder") or self.mean_batch[FUSED[0]]

    @property
    def total_ms(self) -> float:
        """Return the CPU time per chunk of all processes of the server."""
        return sum(self.cpu_ms_per_chunk.values())

    @property
    def streams_per_core(self) -> float:
        """Return the number of streams whose chunks take the CPU time of one core."""
        return self.info.chunk_ms / self.total_ms


@dataclass(frozen=True)
class _Snapshot:
    """Counters of the server at one time."""

    chunks: int
    cpu_s: dict[str, float]
    requests: dict[str, float]
    batches: dict[str, float]


async def saturate(
    server: ServerProcess,
    speech: Audio,
    streams: int,
    seconds: float,
    model: str | None = None,
) -> SaturatedRun:
    """Send chunk after chunk of `speech` on `streams` streams for `seconds` seconds.

    Args:
        server: The server to saturate.
        speech: Audio that the streams loop over, each from a different offset.
        streams: Number of streams.
        seconds: Length of the measurement, after a warm-up.
        model: Recognizer to use, as for `earshot.connect`.

    Raises:
        StreamsFailed: A stream failed.
        earshot.EarshotError: The server cannot be reached, has no such model, or serves it as an
            adapter, whose processes are those of its base.
    """
    # The asyncio client does not run in a process that gevent has patched.
    import earshot

    from loadtest.service.connection import connect_async

    async with connect_async(server.url, model) as client:
        if client.info.adapter:
            raise earshot.UnsupportedServer(
                f"'{client.info.name}' is an adapter and shares the processes of its base, whose "
                "CPU time would count: measure the base, or use `python -m loadtest adapters`"
            )
        counts, name = [0], client.info.name
        tasks = [
            asyncio.create_task(_send_without_pause(client, speech, index, counts))
            for index in range(streams)
        ]
        await asyncio.sleep(WARM_UP_S)
        before, began = _snapshot(server, name, counts), time.monotonic()
        await asyncio.sleep(seconds)
        after, took_s = _snapshot(server, name, counts), time.monotonic() - began
        _require_all_running(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return _run_between(before, after, took_s, client.info)


def _require_all_running(tasks: list[asyncio.Task[None]]) -> None:
    """Raise StreamsFailed if a stream has ended: the load was less than requested."""
    failed = [task.exception() for task in tasks if task.done()]
    if failed:
        raise StreamsFailed(f"{len(failed)} of {len(tasks)} streams failed: {failed[0]}")


def _snapshot(server: ServerProcess, name: str, counts: list[int]) -> _Snapshot:
    return _Snapshot(
        chunks=counts[0],
        cpu_s=by_stage(server.cpu_s(), name),
        requests=by_stage(server.counter("nv_inference_count"), name),
        batches=by_stage(server.counter("nv_inference_exec_count"), name),
    )


def _run_between(
    before: _Snapshot, after: _Snapshot, seconds: float, info: ServerInfo
) -> SaturatedRun:
    chunks = after.chunks - before.chunks
    return SaturatedRun(
        info=info,
        chunks=chunks,
        seconds=seconds,
        cpu_ms_per_chunk={
            name: 1000 * (used - before.cpu_s.get(name, 0.0)) / chunks
            for name, used in after.cpu_s.items()
        },
        mean_batch={
            name: (after.requests[name] - before.requests[name])
            / max(1, after.batches[name] - before.batches[name])
            for name in (*STAGES, *FUSED)
            if name in before.requests
        },
    )


async def _send_without_pause(
    client: AsyncClient, speech: Audio, index: int, counts: list[int]
) -> None:
    chunk = client.info.chunk_samples
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        position = index * 7919
        while True:
            results = await stream.send(loop_from(speech, position, chunk))
            counts[0] += len(results)
            position += chunk
