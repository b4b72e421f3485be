"""`python -m loadtest fit`: compute the live streams that fit into the memory of GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import Json, exiting_on
from loadtest.plan.memory import (
    BATCH_COPIES,
    GPU_BYTES,
    GPU_SHARE,
    NoFootprint,
    footprint_of,
    streams_that_fit,
)


def fit(
    repository: Annotated[
        Path, typer.Argument(help="Exported with --runtime torch --layout fused.")
    ],
    name: Annotated[str, typer.Option(help="Name of the recognizer, if it has one.")] = "",
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Streams in one batch, at most; default: as exported."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute how many live streams fit into the memory of each type of GPU, whatever its speed."""
    with exiting_on(OSError, NoFootprint):
        footprint = footprint_of(repository, name)
    if max_batch:
        footprint = replace(footprint, max_batch=max_batch)
    fits = {gpu: streams_that_fit(footprint, gpu_bytes) for gpu, gpu_bytes in GPU_BYTES.items()}
    if as_json:
        print(json.dumps({"state_bytes": footprint.state_bytes, "streams": fits}, indent=2))
        return
    table = Table("GPU", "GB", "streams")
    for column in table.columns[1:]:
        column.justify = "right"
    for gpu, streams in fits.items():
        table.add_row(gpu, f"{GPU_BYTES[gpu] / 1e9:.1f}", f"{streams:,}")
    console = Console()
    console.print(table)
    one = footprint.engines == 1
    console.print(
        f"A stream takes {footprint.state_bytes / 1e6:.2f} MB, "
        f"{'the engine' if one else f'each of {footprint.engines} engines'} "
        f"{footprint.process_bytes / 1e9:.1f} GB and {BATCH_COPIES} states for each of the "
        f"{footprint.max_batch} rows of its largest batch; {GPU_SHARE:.0%} of the memory is "
        "planned with.",
        highlight=False,
    )
