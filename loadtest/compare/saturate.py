"""A server under more streams than it can follow: what a chunk costs it in CPU time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadtest.server_process import ServerProcess
from loadtest.speech import SAMPLE_RATE_HZ, Samples, from_offset
from loadtest.stages import FUSED, STAGES, by_stage

if TYPE_CHECKING:
    from earshot import AsyncClient, ServerInfo

WARM_UP_S = 3.0


class StreamsFailed(Exception):
    """Fewer streams pressed than were to."""


@dataclass(frozen=True)
class Saturated:
    """The service under as many streams as always have a chunk waiting."""

    info: ServerInfo
    chunks: int
    seconds: float
    cpu_ms_per_chunk: dict[str, float]
    mean_batch: dict[str, float]

    @property
    def batch(self) -> float:
        """Mean batch of the model that does most of the work."""
        return self.mean_batch.get("encoder") or self.mean_batch[FUSED[0]]

    @property
    def total_ms(self) -> float:
        """CPU time per chunk of all its processes."""
        return sum(self.cpu_ms_per_chunk.values())

    @property
    def streams_per_core(self) -> float:
        """Streams whose chunks cost no more CPU time than one core has."""
        return self.info.chunk_ms / self.total_ms


async def press(
    server: ServerProcess,
    speech: Samples,
    streams: int,
    seconds: float,
    model: str | None = None,
) -> Saturated:
    """Let ``streams`` streams of ``speech`` send chunk after chunk for ``seconds`` seconds.

    Raises:
        StreamsFailed: a stream failed, so that fewer pressed.
        earshot.EarshotError: the server is not there, or has no such ``model``.
    """
    from earshot import connect_async  # asyncio's client: not in a process that gevent has changed

    async with connect_async(server.url, model=model) as client:
        counts, name = [0], client.info.name
        tasks = [
            asyncio.create_task(_talk_without_pause(client, speech, index, counts))
            for index in range(streams)
        ]
        await asyncio.sleep(WARM_UP_S)
        before, began = _snapshot(server, name, counts), time.monotonic()
        await asyncio.sleep(seconds)
        after, took_s = _snapshot(server, name, counts), time.monotonic() - began
        _require_all_talking(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        chunks = after["chunks"] - before["chunks"]
        return Saturated(
            info=client.info,
            chunks=chunks,
            seconds=took_s,
            cpu_ms_per_chunk={
                name: 1000 * (used - before["cpu_s"].get(name, 0.0)) / chunks
                for name, used in after["cpu_s"].items()
            },
            mean_batch={
                name: (after["done"][name] - before["done"][name])
                / max(1, after["runs"][name] - before["runs"][name])
                for name in (*STAGES, *FUSED)
                if name in before["done"]
            },
        )


def _require_all_talking(tasks: list[asyncio.Task[None]]) -> None:
    """A stream that has failed presses no more; what was measured then is not what is said."""
    failed = [task.exception() for task in tasks if task.done()]
    if failed:
        raise StreamsFailed(f"{len(failed)} of {len(tasks)} streams failed: {failed[0]}")


def _snapshot(server: ServerProcess, name: str, counts: list[int]) -> dict[str, Any]:
    return {
        "chunks": counts[0],
        "cpu_s": by_stage(server.cpu_s(), name),
        "done": by_stage(server.counter("nv_inference_count"), name),
        "runs": by_stage(server.counter("nv_inference_exec_count"), name),
    }


async def _talk_without_pause(
    client: AsyncClient, speech: Samples, index: int, counts: list[int]
) -> None:
    chunk = client.info.chunk_samples
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        position = index * 7919
        while True:
            results = await stream.send(from_offset(speech, position, chunk))
            counts[0] += len(results)
            position += chunk
