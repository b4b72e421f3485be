"""``python -m loadtest generator``: how many live streams one core speaks to an idle server.

The speakers get one core, a service that answers at once gets the others; streams are added until
the generator is late and the run says so. Above that count a machine needs more ``--processes``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

HOLD_S = 10.0
_console = Console(stderr=True)


def generator(
    chunk_ms: Annotated[int, typer.Option(help="Length of a chunk.")] = 320,
    output: Annotated[Path, typer.Option(help="Where the result goes.")] = Path(
        "build/generator.json"
    ),
) -> None:
    """Find how many live streams the generator speaks on one core before it is the limit."""
    import loadtest.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    from loadtest.fake_service import Truth, fake_service
    from loadtest.measure import Setup, measuring
    from loadtest.report_line import show
    from loadtest.search import search

    speaking, *others = sorted(os.sched_getaffinity(0))
    if not others:
        _console.print("error: two cores are needed: one speaks, the other answers", style="red")
        raise typer.Exit(2)
    os.sched_setaffinity(0, others)
    with (
        fake_service(Truth(chunk_ms)) as url,
        measuring(Setup(url), _console, show) as crowd,
    ):
        crowd.pin_speakers(speaking)
        found = search(
            lambda streams, final: crowd.hold(streams, HOLD_S, final), limit=4000, first=250
        )
        limit = found.wall.reasons[0] if found.wall else "more were not tried"
        result = crowd.result(found, "level", HOLD_S, limit)
    replace(result, streams_per_core=float(found.streams)).write(output)
    best = next((level for level in reversed(found.levels) if level.streams == found.streams), None)
    cores = best.generator_cpu_cores if best else 0.0
    print(f"{found.streams} streams of {chunk_ms} ms chunks on one core ({cores:.2f} of it used)")
