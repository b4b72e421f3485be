"""`python -m loadtest hop`: measure the cost of a request outside of its engine.

Live streams are held on a recognizer whose engine computes nothing; the CPU time of each process
during the hold, divided by the requests, is its share of a request. From these shares follows the
request rate of the cores of another machine if all of them are in use.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import DEFAULT_REPOSITORY, LoadOptions, Output, Repository, exiting_on

if TYPE_CHECKING:
    from loadtest.result.document import Level

BUDGET_CORES = 16


@dataclass(frozen=True)
class HopCost:
    """CPU time of a request, by process, while a number of streams was held."""

    streams: int
    instances: int
    shared: bool
    """True if the recognizer's processes send their rows to one engine in a process of its own."""
    verdict: str
    p99_ms: float
    requests_per_s: float
    mean_batch: float
    triton_us: float
    recognizer_us: float
    """CPU time of all its processes, including that of a shared engine."""
    generator_us: float

    @property
    def total_us(self) -> float:
        """Return the CPU time of a request in all processes."""
        return self.triton_us + self.recognizer_us + self.generator_us


def hop(
    repository: Repository = DEFAULT_REPOSITORY,
    streams: Annotated[
        str, typer.Option(help="Live streams to hold, one level after the other.")
    ] = "250,500,1000",
    instances: Annotated[int, typer.Option(min=1, help="Processes of the recognizer.")] = 2,
    shared: Annotated[
        bool, typer.Option("--shared", help="They share one engine, as on a GPU.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Streams in one batch.")] = 256,
    hold_s: Annotated[float, typer.Option(min=1, help="Length of each hold.")] = 10.0,
    processes: Annotated[int, typer.Option(min=1, help="Load generator processes.")] = 1,
    output: Output = Path("build/hop.json"),
) -> None:
    """Measure the cost of a request outside of its engine, which computes nothing here.

    The repository must contain a recognizer exported with --layout fused, for any runtime.
    """
    import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    from loadtest.compare.null_engine import NotFused, write_null_repository
    from loadtest.result.files import require_writable, write_whole
    from loadtest.result.machine import cpu_model, now, this_command, usable_cores

    counts = [int(count) for count in streams.split(",")]
    with exiting_on(NotFused, OSError), tempfile.TemporaryDirectory() as folder:
        require_writable(output)
        null = Path(folder) / "models"
        write_null_repository(
            *(repository, null),
            instances=instances,
            shared=shared,
            max_streams=2 * max(counts),
            max_batch=max_batch,
        )
        options = LoadOptions(repository=null, hold_s=hold_s, processes=processes)
        costs = [_cost(level, instances, shared) for level in _hold(options, counts)]
    document = {
        "kind": "hop",
        "levels": [asdict(cost) | {"total_us": cost.total_us} for cost in costs],
        "machine": cpu_model(),
        "cores": usable_cores(),
        "command": this_command(),
        "ended_at": now(),
    }
    write_whole(output, json.dumps(document, indent=2) + "\n")
    _print(costs)


def _hold(options: LoadOptions, counts: list[int]) -> list[Level]:
    import earshot

    from loadtest.capacity.display import Display
    from loadtest.capacity.measure import measuring
    from loadtest.capacity.runner import LoadRunnerFailed
    from loadtest.service.server import ServerEnded

    with (
        exiting_on(earshot.EarshotError, LoadRunnerFailed, ServerEnded),
        measuring(options, Display()) as measurement,
    ):
        return [measurement.hold(count, True) for count in counts]


def _cost(level: Level, instances: int, shared: bool) -> HopCost:
    [recognizer] = [stage for stage in level.stages if stage.model == "recognizer"]
    requests_per_s = recognizer.requests / level.hold_s
    recognizer_cores = recognizer.cpu_cores or 0.0
    triton_cores = (level.server_cpu_cores or 0.0) - recognizer_cores
    return HopCost(
        streams=level.streams,
        instances=instances,
        shared=shared,
        verdict=level.verdict,
        p99_ms=level.chunk_latency.p99_ms,
        requests_per_s=requests_per_s,
        mean_batch=recognizer.mean_batch,
        triton_us=1e6 * triton_cores / requests_per_s,
        recognizer_us=1e6 * recognizer_cores / requests_per_s,
        generator_us=1e6 * level.generator_cpu_cores / requests_per_s,
    )


def _print(costs: list[HopCost]) -> None:
    table = Table("streams", "batch", "p99 ms", "requests/s")
    for part in ("triton", "recognizer", "generator", "sum"):
        table.add_column(f"{part} µs")
    table.add_column(f"{BUDGET_CORES} cores")
    table.title = f"CPU time of a request, and the requests per second of {BUDGET_CORES} cores"
    for column in table.columns:
        column.justify = "right"
    for cost in costs:
        parts = (cost.triton_us, cost.recognizer_us, cost.generator_us, cost.total_us)
        table.add_row(
            f"{cost.streams:,}" + ("" if cost.verdict == "pass" else f" ({cost.verdict})"),
            f"{cost.mean_batch:.0f}",
            f"{cost.p99_ms:.0f}",
            f"{cost.requests_per_s:,.0f}",
            *(f"{part:.0f}" for part in parts),
            f"{1e6 * BUDGET_CORES / cost.total_us:,.0f}",
        )
    Console().print(table)
