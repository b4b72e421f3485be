"""`python -m loadtest agreement`: compare our figures with those of `perf_analyzer`.

NVIDIA's tool and ours take turns measuring one server, with the same speech in the same chunks: in
a closed loop, in which each stream always has one chunk in flight, and in an open loop, in which
chunks are due in real time. The medians over the rounds are compared.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import (
    DEFAULT_REPOSITORY,
    AgreementOptions,
    Json,
    Model,
    Repository,
    console,
    exiting_on,
)

if TYPE_CHECKING:
    from loadtest.compare.perf_analyzer import LoopFigures

TOLERANCE = 0.10
QUANTITIES = ("chunks_per_s", "p50_ms", "p99_ms")


@dataclass(frozen=True)
class Quantity:
    """One figure that both tools measured in each round."""

    loop: str
    streams: int
    name: str
    perf_analyzer: list[float]
    earshot: list[float]
    difference: float
    """Ratio of the medians, ours over theirs, less 1."""

    @property
    def agrees(self) -> bool:
        """Return `True` if the two differ by no more than the tolerance."""
        return abs(self.difference) <= TOLERANCE


def main(
    perf_analyzer: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, help="Path of the binary; see loadtest/README.md."
        ),
    ],
    repository: Repository = DEFAULT_REPOSITORY,
    model: Model = None,
    closed: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Streams in the closed loop; may be repeated. Default: 1 and 4."),
    ] = None,
    open_streams: Annotated[
        int, typer.Option("--open", min=1, help="Live streams in the open loop.")
    ] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each loop by each tool.")] = 3,
    seconds: Annotated[float, typer.Option(min=3, help="Length of one measurement.")] = 10.0,
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Compare throughput and latency with perf_analyzer; exit code 1 beyond 10 %."""
    options = AgreementOptions(
        perf_analyzer, repository, model, tuple(closed or (1, 4)), open_streams, rounds, seconds
    )
    quantities, conditions = _measure(options)
    document = {
        "schema": 1,
        "kind": "agreement",
        "agrees": all(quantity.agrees for quantity in quantities),
        "tolerance": TOLERANCE,
        "quantities": [asdict(quantity) for quantity in quantities],
        "conditions": conditions,
    }
    text = json.dumps(document, indent=2)
    if output:
        output.write_text(f"{text}\n")
    if as_json:
        print(text)
    else:
        _print(quantities)
    sys.exit(0 if document["agrees"] else 1)


def compare(
    loop: str, streams: int, theirs: list[LoopFigures], ours: list[LoopFigures]
) -> list[Quantity]:
    """Compare every figure of one load, from the rounds of both tools."""
    quantities: list[Quantity] = []
    for name in QUANTITIES:
        by_them = [round(float(getattr(each, name)), 2) for each in theirs]
        by_us = [round(float(getattr(each, name)), 2) for each in ours]
        difference = round(median(by_us) / median(by_them) - 1, 4)
        quantities.append(Quantity(loop, streams, name, by_them, by_us, difference))
    return quantities


def _measure(options: AgreementOptions) -> tuple[list[Quantity], dict[str, Any]]:
    import earshot

    from loadtest.compare.interleave import ToolFailed, serving_both_tools
    from loadtest.compare.perf_analyzer import PerfAnalyzerFailed
    from loadtest.service.server import ServerEnded

    with (
        exiting_on(earshot.EarshotError, PerfAnalyzerFailed, ServerEnded, ToolFailed, OSError),
        serving_both_tools(options) as tools,
        console.status("measuring in turn"),
    ):
        quantities: list[Quantity] = []
        for streams in options.closed:
            theirs, ours = tools.closed_loop(streams, _announce)
            quantities += compare("closed", streams, theirs, ours)
        theirs, ours = tools.open_loop(options.open_streams, _announce)
        quantities += compare("open", options.open_streams, theirs, ours)
        return quantities, tools.conditions()


def _announce(measured: str) -> None:
    console.print(measured, highlight=False, markup=False, soft_wrap=True)


def _print(quantities: list[Quantity]) -> None:
    table = Table(title="Medians over the rounds")
    for title in ("loop", "streams", "figure", "perf_analyzer", "earshot", "difference"):
        table.add_column(title, justify="left" if title in ("loop", "figure") else "right")
    for each in quantities:
        colour = "green" if each.agrees else "red"
        table.add_row(
            each.loop,
            str(each.streams),
            each.name,
            f"{median(each.perf_analyzer):.1f}",
            f"{median(each.earshot):.1f}",
            f"[{colour}]{each.difference:+.1%}",
        )
    Console().print(table)
