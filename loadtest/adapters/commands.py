"""`python -m loadtest adapters`: measure the cost of many custom models in one engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    LoadOptions,
    Model,
    Output,
    Repository,
    Speech,
    console,
    exiting_on,
)

if TYPE_CHECKING:
    from loadtest.adapters.document import AdaptersResult

COUNTS = "1,10,100,300"


def adapters(
    repository: Repository = DEFAULT_REPOSITORY,
    model: Model = None,
    streams: Annotated[int, typer.Option(min=1, help="Live streams of each level.")] = 96,
    counts: Annotated[
        str, typer.Option(help="Adapters over which the streams of each level are spread.")
    ] = COUNTS,
    hold_s: Annotated[float, typer.Option(min=2, help="Length of each level.")] = 20.0,
    retired: Annotated[
        int, typer.Option(min=1, help="Adapters to retire again while streams are live.")
    ] = 50,
    speech: Speech = RECORDINGS,
    output: Output = Path("build/adapters.json"),
    as_json: Json = False,
) -> None:
    """Compare the CPU time of live streams with many adapters and with none.

    The recognizer must have been exported with --adapters; the adapters are random. Exit codes: 0
    no stream failed, 1 some did, 2 usage or no server.
    """
    import earshot

    from loadtest.adapters.measure import NoAdapters, Plan, measure
    from loadtest.result.files import require_writable
    from loadtest.service.server import ServerEnded

    options = LoadOptions(repository=repository, model=model, speech=speech)
    with exiting_on(earshot.EarshotError, ServerEnded, NoAdapters, OSError, ValueError):
        plan = Plan(streams, tuple(map(int, counts.split(","))), hold_s, retired)
        require_writable(output)
        result = measure(options, plan, console.print)
        result.write(output)
    if as_json:
        print(output.read_text())
    else:
        _print(result)
    if result.live_failures or any(level.failures for level in result.levels):
        raise typer.Exit(1)


def _print(result: AdaptersResult) -> None:
    table = Table(title=f"{result.levels[0].streams} live streams")
    for column in ("adapters", "CPU ms per s of a stream", "streams per core", "p99 ms", "failed"):
        table.add_column(column, justify="right")
    for level in result.levels:
        table.add_row(
            str(level.adapters or "none"),
            f"{level.total_cpu_ms_per_stream_s:.2f}",
            f"{level.streams_per_core_ratio:.0%}",
            f"{level.chunk_latency.p99_ms:.0f}",
            str(level.failures),
        )
    stdout = Console()
    stdout.print(table)
    loaded, retired = result.loaded, result.retired
    stdout.print(
        f"an adapter: {result.adapter_bytes / 1e6:.1f} MB on disk, "
        f"{result.memory_bytes_per_adapter / 1e6:.1f} MB in memory; under live streams "
        f"{loaded.adapters} went live ({loaded.mean_ms:.0f} ms each, {loaded.slowest_ms:.0f} at "
        f"most) and {retired.adapters} away ({retired.mean_ms:.0f} ms, {retired.slowest_ms:.0f} at "
        f"most), and {result.live_failures} streams failed"
    )
