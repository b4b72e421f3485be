"""`python -m loadtest generator`: find the live streams that one generator core sustains.

The worker gets one core, and a fake service that answers at once gets the others; streams are added
until the load generator is late and the level is invalid. For more streams a load test needs more
`--processes`. If a level fails instead, the fake service was the limit: it computes on one core and
takes more CPU time per chunk than the generator.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from loadtest.capacity.search import SearchOptions, search
from loadtest.options import LoadOptions, Output, console

HOLD_S = 10.0
MAX_STREAMS = 4000
SEARCH = SearchOptions(first_streams=250)


def generator(
    chunk_ms: Annotated[int, typer.Option(help="Length of a chunk, in milliseconds.")] = 320,
    output: Output = Path("build/generator.json"),
) -> None:
    """Find how many live streams the load generator sustains on one core."""
    import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    from loadtest.capacity.display import Display
    from loadtest.capacity.measure import measuring
    from loadtest.selftest.fake_service import Truth, fake_service

    core, *others = sorted(os.sched_getaffinity(0))
    if not others:
        console.print("error: expected two cores, one for the worker, got one", style="red")
        raise typer.Exit(2)
    os.sched_setaffinity(0, others)
    with (
        fake_service(Truth(chunk_ms)) as url,
        measuring(LoadOptions(url=url, hold_s=HOLD_S), Display()) as measurement,
    ):
        measurement.pin_workers(core)
        found = search(measurement.hold, MAX_STREAMS, SEARCH)
        limit = found.limit.reasons[0] if found.limit else "more streams were not tried"
        result = measurement.result(found, "level", limit)
    replace(result, streams_per_core=float(found.streams)).write(output)
    best = next((level for level in reversed(found.levels) if level.streams == found.streams), None)
    cores = best.generator_cpu_cores if best else 0.0
    chunk_us = 1000 * chunk_ms * cores / max(1, found.streams)
    print(
        f"{found.streams} streams of {chunk_ms} ms chunks on one core ({cores:.2f} of it used, "
        f"{chunk_us:.0f} µs for each chunk)"
    )
