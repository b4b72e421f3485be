"""``python -m loadtest overhead``: what the server costs on top of the network it serves.

Streams per core of the whole service (tritonserver, its backends, all copies and queues) against a
bare ONNX Runtime loop over the same files, at the batch size that the service reached, one thread
each, in one run. Both are counted in CPU time, so a client on the same machine does not count.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from loadtest.bare_loop import FUSED, STAGES, BareLoop, run_bare_loop
from loadtest.machine import cpu_model
from loadtest.server_process import ServerProcess, serving
from loadtest.speech import SAMPLE_RATE_HZ, Samples, from_offset, load_speech

if TYPE_CHECKING:
    from earshot import AsyncClient, ServerInfo

WARM_UP_S = 3.0
TARGET = 0.70
_console = Console(stderr=True)


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
        """CPU time per chunk of all server processes."""
        return sum(self.cpu_ms_per_chunk.values())

    @property
    def streams_per_core(self) -> float:
        """Streams whose chunks cost no more CPU time than one core has."""
        return self.info.chunk_ms / self.total_ms


def overhead(
    repository: Annotated[Path, typer.Option(help="Exported models.")] = Path("model_repository"),
    streams: Annotated[int, typer.Option(help="Streams that press chunk after chunk.")] = 64,
    seconds: Annotated[float, typer.Option(help="Length of the measurement.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare streams per core of the service with a bare ONNX Runtime loop."""
    speech = load_speech()
    with serving(repository) as server, _console.status("pressing the service"):
        service = asyncio.run(press(server, speech, streams, seconds))
    with _console.status("running the bare loop"):
        batch = max(1, round(service.batch))
        bare = run_bare_loop(repository, speech, batch, service.info.chunk_samples)
    report = _report(service, bare, streams)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


async def press(server: ServerProcess, speech: Samples, streams: int, seconds: float) -> Saturated:
    """Let ``streams`` streams of ``speech`` send chunk after chunk for ``seconds`` seconds."""
    from earshot import connect_async  # asyncio's client: not in a process that gevent has changed

    async with connect_async(server.url) as client:
        counts = [0]
        tasks = [
            asyncio.create_task(_talk_without_pause(client, speech, index, counts))
            for index in range(streams)
        ]
        await asyncio.sleep(WARM_UP_S)
        before, began = _snapshot(server, counts), time.monotonic()
        await asyncio.sleep(seconds)
        after, took_s = _snapshot(server, counts), time.monotonic() - began
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
        raise RuntimeError(f"{len(failed)} of {len(tasks)} streams failed: {failed[0]}")


def _snapshot(server: ServerProcess, counts: list[int]) -> dict[str, Any]:
    return {
        "chunks": counts[0],
        "cpu_s": server.cpu_s(),
        "done": server.counter("nv_inference_count"),
        "runs": server.counter("nv_inference_exec_count"),
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


def _report(service: Saturated, bare: BareLoop, streams: int) -> dict[str, Any]:
    chunk_ms = service.info.chunk_ms
    return {
        "model": service.info.model,
        "precision": service.info.precision,
        "chunk_ms": chunk_ms,
        "streams_pressing": streams,
        "chunks": service.chunks,
        "seconds": round(service.seconds, 1),
        "batch": round(service.batch, 1),
        "mean_batch": {name: round(size, 1) for name, size in service.mean_batch.items()},
        "service": {
            "cpu_ms_per_chunk": _rounded(service.cpu_ms_per_chunk),
            "streams_per_core": round(service.streams_per_core, 1),
        },
        "bare_loop": {
            "batch": bare.batch,
            "cpu_ms_per_chunk": _rounded(bare.cpu_ms_per_chunk),
            "streams_per_core": round(chunk_ms / bare.total_ms, 1),
        },
        "ratio": round(bare.total_ms / service.total_ms, 3),
        "cores": psutil.cpu_count(),
        "machine": cpu_model(),
        "versions": {"server": service.info.server, "onnxruntime": version("onnxruntime")},
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in sorted(values.items())}


def _print(report: dict[str, Any]) -> None:
    table = Table(title=f"CPU milliseconds per {report['chunk_ms']} ms chunk of one stream")
    table.add_column("process")
    table.add_column("service", justify="right")
    table.add_column("bare loop", justify="right")
    service, bare = report["service"], report["bare_loop"]
    for name, used in service["cpu_ms_per_chunk"].items():
        table.add_row(name, f"{used:.3f}", f"{bare['cpu_ms_per_chunk'].get(name, 0):.3f}")
    table.add_section()
    per_core = (str(service["streams_per_core"]), str(bare["streams_per_core"]))
    table.add_row("streams per core", *per_core)
    console = Console()
    console.print(table)
    verdict = "meets" if report["ratio"] >= TARGET else "is below"
    console.print(
        f"the service carries {report['ratio']:.0%} of the bare loop's streams per core "
        f"({verdict} the target of {TARGET:.0%}), encoder batches of "
        f"{report['batch']:.1f}"
    )
