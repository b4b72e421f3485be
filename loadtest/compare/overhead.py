"""`python -m loadtest overhead`: measure the cost of the server on top of its network.

Streams per core of the whole service (tritonserver, its backends, all copies and queues) are
compared with those of a bare ONNX Runtime loop over the same files, at the batch size that the
service reached, with one thread each, in one run. Both figures count CPU time, so a client on the
same machine does not affect them.
"""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    Model,
    Repository,
    console,
    exiting_on,
)
from loadtest.result.machine import cpu_model

if TYPE_CHECKING:
    from loadtest.compare.bare_loop import BareLoop
    from loadtest.compare.saturate import SaturatedRun

TARGET = 0.70


def overhead(
    repository: Repository = DEFAULT_REPOSITORY,
    model: Model = None,
    streams: Annotated[int, typer.Option(help="Streams that send without pause.")] = 64,
    seconds: Annotated[float, typer.Option(help="Length of the measurement.")] = 20.0,
    as_json: Json = False,
) -> None:
    """Compare streams per core of the service with a bare ONNX Runtime loop."""
    service, bare = _measure(repository, model, streams, seconds)
    report = _report(service, bare, streams)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


def _measure(
    repository: Path, model: str | None, streams: int, seconds: float
) -> tuple[SaturatedRun, BareLoop]:
    import earshot

    from loadtest.audio.scripts import load_speech
    from loadtest.compare.bare_loop import run_bare_loop
    from loadtest.compare.saturate import StreamsFailed, saturate
    from loadtest.service.server import ServerEnded, serving

    speech = load_speech(RECORDINGS)
    with exiting_on(ServerEnded, StreamsFailed, earshot.EarshotError):
        with serving(repository) as server, console.status("saturating the service"):
            service = asyncio.run(saturate(server, speech, streams, seconds, model))
        with console.status("running the bare loop"):
            batch, info = max(1, round(service.batch)), service.info
            bare = run_bare_loop(repository, info.name, speech, batch, info.chunk_samples)
    return service, bare


def _report(service: SaturatedRun, bare: BareLoop, streams: int) -> dict[str, Any]:
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
    stdout = Console()
    stdout.print(table)
    verdict = "meets" if report["ratio"] >= TARGET else "is below"
    stdout.print(
        f"the service sustains {report['ratio']:.0%} of the bare loop's streams per core "
        f"({verdict} the target of {TARGET:.0%}), encoder batches of "
        f"{report['batch']:.1f}"
    )
