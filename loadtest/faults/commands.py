"""`python -m loadtest faults`: break a server on purpose."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    LoadOptions,
    Output,
    Repository,
    Speech,
    console,
    exiting_on,
)


def faults(
    repository: Repository = DEFAULT_REPOSITORY,
    streams: Annotated[int, typer.Option(min=1, help="Live streams at the time.")] = 16,
    speech: Speech = RECORDINGS,
    output: Output = Path("build/faults.json"),
    as_json: Json = False,
) -> None:
    """Kill each stage of a server, freeze one, drain it, and silence its connection.

    Each time there are live streams.

    Exit codes: 0 the faults were measured, 2 usage or no server.
    """
    import earshot
    from rich.table import Table

    from loadtest.faults.measure import measure
    from loadtest.result.files import require_writable
    from loadtest.service.server import ServerEnded

    options = LoadOptions(repository=repository, speech=speech)
    with exiting_on(earshot.EarshotError, ServerEnded, OSError, ValueError):
        require_writable(output)
        result = measure(options, streams, console.print)
        result.write(output)
    if as_json:
        print(output.read_text())
        return
    table = Table(
        "signal", "process", "ended after s", "exit code", "streams right", "refused in ms"
    )
    for fault in result.faults:
        table.add_row(
            fault.signal,
            fault.process,
            f"{fault.ended_s:.1f}",
            str(fault.exit_code),
            f"{fault.finished_streams} of {fault.open_streams}",
            "" if fault.refusal_ms is None else f"{fault.refusal_ms:.0f}",
        )
    console.print(table)
    if (path := result.dead_path) is not None:
        console.print(
            f"a TCP path that went silent: {path.resumed_streams} of {path.open_streams} streams "
            f"went on, {path.right_streams} with the undisturbed text, after "
            f"{path.recovered_s[-1] if path.recovered_s else math.nan:.1f} s at most"
        )
