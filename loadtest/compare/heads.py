"""`python -m loadtest heads`: measure the cost of heads relative to their base recognizer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    Output,
    Repository,
    console,
    exiting_on,
)

if TYPE_CHECKING:
    from loadtest.compare.head_cost import HeadCostResult


def heads(
    model: Annotated[
        list[str], typer.Option(help="Recognizer with heads; repeatable. All must share one base.")
    ],
    repository: Repository = DEFAULT_REPOSITORY,
    base: Annotated[
        str | None, typer.Option(help="The base to compare with, if it has a name.")
    ] = None,
    streams: Annotated[int, typer.Option(min=1, help="Live streams at a time.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each recognizer.")] = 2,
    hold_s: Annotated[float, typer.Option(min=1, help="Length of a turn, in seconds.")] = 25.0,
    output: Output = Path("build/heads.json"),
    as_json: Json = False,
) -> None:
    """Compare streams per core of recognizers with heads, at one level of live streams.

    Exit codes: 0 the cost was measured, 2 usage or no server.
    """
    import earshot

    from loadtest.audio.scripts import load_speech
    from loadtest.compare.head_cost import compare
    from loadtest.compare.saturate import StreamsFailed
    from loadtest.result.files import require_writable
    from loadtest.service.server import ServerEnded, serving

    with exiting_on(earshot.EarshotError, ServerEnded, StreamsFailed, OSError, ValueError):
        require_writable(output)
        speech = load_speech(RECORDINGS)
        with serving(repository) as server:
            turns = compare(server, [base, *model], speech, streams, rounds, hold_s, console.print)
            result = asyncio.run(turns)
        result.write(output)
    if as_json:
        print(output.read_text())
    else:
        _print(result)


def _print(result: HeadCostResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("recognizer", "heads", "labels", "CPU ms per s", "streams per core", "ratio")
    for cost in result.recognizers:
        table.add_row(
            cost.recognizer,
            str(cost.heads),
            str(cost.labels),
            f"{sum(cost.cpu_ms_per_stream_s.values()):.2f}",
            str(cost.streams_per_core),
            f"{cost.ratio:.3f}",
        )
    Console().print(table)
    late = sum(cost.late_chunks for cost in result.recognizers)
    if late:
        Console().print(f"{late} chunks were late: the machine is too busy for these figures")
