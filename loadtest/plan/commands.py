"""`python -m loadtest plan --streams 5000`: replicas, the chart's values, and a simulated day."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import Json, exiting_on
from loadtest.overload.document import OverloadResult
from loadtest.plan.capacity import (
    CapacityPlan,
    Demand,
    NoPlan,
    admission_of,
    make_plan,
    newest_result,
)
from loadtest.plan.plot import plot_day
from loadtest.plan.values import chart_values, scaling_of
from loadtest.result.document import CapacityResult
from loadtest.result.files import RESULTS, write_whole

if TYPE_CHECKING:
    from loadtest.plan.day import SimulatedDay


@dataclass(frozen=True)
class _Planned:
    """The plan from one result, and a simulated day with it if requested."""

    path: str
    plan: CapacityPlan
    day: SimulatedDay | None


def plan(
    streams: Annotated[
        int, typer.Option(min=0, help="Streams that are live at the same time, at the peak.")
    ],
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Capacity results. Default: the newest in loadtest/results."),
    ] = None,
    headroom: Annotated[
        float, typer.Option(help="Share of each unit that stays free, from 0 to below 1.")
    ] = 0.2,
    spare: Annotated[int, typer.Option(min=0, help="Units that may fail at the peak.")] = 1,
    admission: Annotated[
        Path | None,
        typer.Option(
            help="Result of `loadtest overload` on the same server: plan with no more streams than "
            "it admits, and with its --chunk-share."
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="Price of one unit (GPU or machine), in any currency."),
    ] = None,
    values: Annotated[
        Path | None, typer.Option(help="Write the chart's scaling to this YAML file.")
    ] = None,
    day: Annotated[
        Path | None,
        typer.Option(help="Simulate this day (JSON), such as loadtest/plan/working_day.json."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the simulated day to this file (.svg, .png).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn measured capacity into GPUs, replicas and cost."""
    demand = Demand(streams, headroom, spare, price_per_hour)
    with exiting_on(OSError, ValueError, NoPlan):
        paths = results or [newest_result(RESULTS)]
        if len(paths) > 1 and (values or plot or admission):
            raise NoPlan("--values, --plot and --admission take one result: name it")
        if plot and not day:
            raise NoPlan("--plot draws a simulated day: name one with --day")
        planned = [_plan(path, demand, admission, day) for path in paths]
        if values:
            write_whole(values, chart_values(planned[0].plan, planned[0].path))
        if plot and planned[0].day:
            _plot(planned[0].plan, planned[0].day, demand, plot)
    if as_json:
        documents = [_document(each, price_per_hour) for each in planned]
        print(json.dumps({"demand": asdict(demand), "plans": documents}, indent=2))
    else:
        for each in planned:
            _print(each, demand)


def _plan(path: Path, demand: Demand, admission: Path | None, day: Path | None) -> _Planned:
    result = CapacityResult.from_json(path)
    limit = admission and admission_of(OverloadResult.from_json(admission), result)
    made = make_plan(result, demand, limit)
    simulated = None
    if day is not None:
        from loadtest.plan.day import Day, simulate  # imports numpy, which other plans do not need

        sustained = int(made.streams_per_unit)
        simulated = simulate(Day.from_json(day), demand.streams, sustained, scaling_of(made))
    return _Planned(str(path), made, simulated)


def _plot(plan: CapacityPlan, day: SimulatedDay, demand: Demand, path: Path) -> None:
    title = f"A simulated day with {demand.streams:,} live streams at its peak"
    plot_day(day, title, plan.unit, int(plan.streams_per_unit), path)


def _document(planned: _Planned, price_per_hour: float | None) -> dict[str, Any]:
    document = {"result": planned.path, **asdict(planned.plan)}
    if planned.day is not None:
        document["day"] = _figures(planned.day, price_per_hour)
    return document


def _figures(day: SimulatedDay, price_per_hour: float | None) -> dict[str, Any]:
    hours = day.replica_hours
    return {
        "calls": day.calls,
        "refused": day.refused,
        "refused_share": day.refused / day.calls if day.calls else 0.0,
        "refused_in_worst_minute": max(minute.refused for minute in day.minutes),
        "live_max": max(minute.live for minute in day.minutes),
        "busiest_replica_max": max(minute.busiest for minute in day.minutes),
        "replicas_max": max(minute.replicas for minute in day.minutes),
        "replicas_min": min(minute.replicas for minute in day.minutes),
        "replica_hours": round(hours, 1),
        "moved_streams": day.moved,
        "cost": None if price_per_hour is None else round(hours * price_per_hour, 2),
    }


def _print(planned: _Planned, demand: Demand) -> None:
    console = Console()
    title = f"{demand.streams:,} live streams, from {planned.path}"
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    console.print(_table(planned.plan))
    if planned.day is not None:
        console.print("The day:")
        console.print(_day_table(planned, demand))
    console.print("Assumed:")
    for assumption in planned.plan.assumptions:
        console.print(f"  - {assumption}", highlight=False, markup=False)


def _table(plan: CapacityPlan) -> Table:
    table = _two_columns()
    measured = f"{plan.streams_per_unit_measured:,.4g}"
    table.add_row(f"streams per {plan.unit}, measured", measured)
    if plan.admission is not None:
        table.add_row(
            f"streams per {plan.unit}, admitted", f"{plan.admission.streams_per_unit:,.0f}"
        )
    table.add_row(f"streams per {plan.unit}, with headroom", f"{plan.streams_per_unit_planned:,}")
    table.add_row(f"{plan.unit}s for the streams", f"{plan.units_for_the_streams:,}")
    table.add_row("spare", f"{plan.spare_units:,}")
    table.add_row(f"replicas, one per {plan.unit}", f"[bold]{plan.replicas:,}")
    if plan.cost_per_hour is not None:
        table.add_row("cost per hour", f"{plan.cost_per_hour:,.2f}")
    if plan.cost_per_stream_hour is not None:
        table.add_row("cost per stream-hour", f"[bold]{plan.cost_per_stream_hour:.5f}")
    return table


def _day_table(planned: _Planned, demand: Demand) -> Table:
    assert planned.day is not None
    day = _figures(planned.day, demand.price_per_hour)
    table = _two_columns()
    table.add_row("calls", f"{day['calls']:,}")
    table.add_row("refused", f"[bold]{day['refused']:,} ({day['refused_share']:.3%})")
    table.add_row("most live streams", f"{day['live_max']:,}")
    table.add_row("most on one replica", f"{day['busiest_replica_max']:,}")
    table.add_row(f"{planned.plan.unit}s", f"{day['replicas_min']:,} to {day['replicas_max']:,}")
    table.add_row(f"{planned.plan.unit}-hours", f"[bold]{day['replica_hours']:,.0f}")
    always = 24 * planned.plan.replicas
    table.add_row("without scaling", f"{always:,}")
    table.add_row("streams moved at the end of a drain", f"{day['moved_streams']:,}")
    if day["cost"] is not None:
        table.add_row("cost", f"{day['cost']:,.2f}")
    return table


def _two_columns() -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    return table
