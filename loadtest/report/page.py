"""`python -m loadtest report RESULT.json`: show a result as one HTML page.

The page is self-contained: charts are inline SVG, styles are in its head, and there is no script.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from markupsafe import Markup

from loadtest.options import exiting_on
from loadtest.report import charts
from loadtest.report.svg import Chart, draw
from loadtest.report.templates import load_template
from loadtest.result.baseline import ALL_SETS
from loadtest.result.document import CapacityResult, Conditions, Level
from loadtest.service.stages import pipeline_order

TEMPLATE = Path(__file__).with_name("page.html.j2")
WIDE_PX, NARROW_PX = 900, 356


def main(
    result: Annotated[Path, typer.Argument(help="JSON of a capacity run or of one level.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page to write. Default: next to the result."),
    ] = None,
) -> None:
    """Show a result as one self-contained HTML page."""
    page = output or result.with_suffix(".html")
    with exiting_on(OSError, ValueError):
        text = render(CapacityResult.from_json(result))
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    print(page)


def render(result: CapacityResult) -> str:
    """Return the page as HTML.

    Raises:
        ValueError: No level was held, so there is nothing to show.
    """
    if not result.levels:
        raise ValueError("expected at least one level in the result, got none: nothing was held")
    shown = result.shown_level
    return load_template(TEMPLATE).render(
        result=result,
        shown=shown,
        headline=headline(result),
        verdict=_verdict(result),
        tiles=_tiles(result, shown),
        figures=_figures(result, shown),
        small_figures=_small_figures(result),
        stages=sorted(shown.stages, key=lambda stage: pipeline_order(stage.model)),
        stage_colours=charts.stage_colours(result.levels),
        longest_stage_ms=max((s.queue_ms + s.compute_ms for s in shown.stages), default=1.0) or 1.0,
        conditions=_conditions(result.conditions),
        outcome=charts.outcome,
        all_sets=ALL_SETS,
    )


def headline(result: CapacityResult) -> str:
    """Return the headline of the page: the result in a few words."""
    if result.unfinished:
        return "The search did not end"
    if result.verdict == "invalid":
        return "The load generator was the limit"
    if result.kind == "level":
        return f"{result.shown_level.streams} live streams"
    if not result.streams:
        return "No number of streams passed"
    per = [f"{result.streams} live streams"]
    if result.streams_per_gpu is not None:
        per.append(f"{result.streams_per_gpu:,.0f} per GPU")
    if result.streams_per_core is not None:
        per.append(f"{result.streams_per_core:,.0f} per core")
    return ", ".join(per)


@dataclass(frozen=True)
class _Figure:
    """A chart, drawn for a wide and for a narrow page, with its legend."""

    title: str
    note: str
    wide: Markup
    narrow: Markup
    legend: list[tuple[str, str]]
    """CSS class of the colour, and its meaning."""


@dataclass(frozen=True)
class _Tile:
    label: str
    value: str
    unit: str
    note: str = ""


def _verdict(result: CapacityResult) -> str:
    """Return the text of the badge."""
    return {"pass": "Pass", "fail": "Fail", "invalid": "INVALID"}[result.verdict]


def _tiles(result: CapacityResult, shown: Level) -> list[_Tile]:
    latency, final = shown.chunk_latency, shown.final_latency
    tiles = [
        _Tile("p99 latency", f"{latency.p99_ms:.0f}", "ms", f"{result.rule.p99_ms:.0f} allowed"),
        _Tile("p50 latency", f"{latency.p50_ms:.0f}", "ms", f"p95 {latency.p95_ms:.0f} ms"),
    ]
    if final is not None:
        note = f"p50 {final.p50_ms:.0f} ms"
        tiles.append(_Tile("p99, final text", f"{final.p99_ms:.0f}", "ms", note))
    if shown.server_cpu_cores is not None:
        note = f"of {result.conditions.cpu_cores} in the machine"
        tiles.append(_Tile("Server", f"{shown.server_cpu_cores:.1f}", "cores", note))
    if shown.gpu_utilization is not None:
        memory = shown.gpu_memory_bytes
        note = "" if memory is None else f"{memory / 2**30:.1f} GiB of memory"
        tiles.append(_Tile("GPU", f"{shown.gpu_utilization:.0%}"[:-1], "% busy", note))
    note = f"generator's p99 {shown.lateness.p99_ms:.1f} ms"
    tiles.append(_Tile("Late sends", f"{100 * shown.late_share:.2g}", "%", note))
    differing = f"{shown.transcripts_different} of {shown.transcripts_compared} transcripts differ"
    if shown.wer is not None:
        tiles.append(_Tile("WER at load", f"{100 * shown.wer:.1f}", "%", differing))
    elif shown.transcripts_compared:
        note = f"of {shown.transcripts_compared} under load"
        tiles.append(_Tile("Transcripts", f"{shown.transcripts_different}", "differ", note))
    return tiles


def _figures(result: CapacityResult, shown: Level) -> list[_Figure]:
    percentiles = [(name, name) for name in ("p50", "p95", "p99")]
    figures: list[_Figure] = []
    if len(result.levels) > 1:
        marks = _marks(result)
        note = (
            "From the time when a chunk is due to its text. Each mark is one level that was held."
        )
        chart = charts.latency_against_streams(result)
        figures.append(_figure(chart, note, [*percentiles, *marks], 380))
    note = "Percentiles of each second, and the lateness of the load generator itself."
    chart = charts.latency_over_time(shown, result.rule.p99_ms)
    figures.append(_figure(chart, note, [*percentiles, ("late", "generator, p99")], 300))
    return figures


def _marks(result: CapacityResult) -> list[tuple[str, str]]:
    """Return the meanings of the marks on the chart."""
    meanings = {"dot": "passes", "ring": "held long", "cross": "fails", "diamond": "invalid"}
    shown = {charts.shape(level) for level in result.levels}
    return [(shape, meaning) for shape, meaning in meanings.items() if shape in shown]


def _small_figures(result: CapacityResult) -> list[_Figure]:
    """Return the figures that a wide page shows in pairs."""
    if len(result.levels) < 2:
        return []
    figures: list[_Figure] = []
    if any(level.stages for level in result.levels):
        legend = [(css, model) for model, css in charts.stage_colours(result.levels).items()]
        note = "In a larger batch each request costs less."
        figures.append(
            _figure(charts.batches_against_streams(result), note, legend, 280, half=True)
        )
    legend = [("server", "server"), ("generator", "generator")]
    note = "CPU seconds per second of all their processes."
    figures.append(_figure(charts.cores_against_streams(result), note, legend, 280, half=True))
    if any(level.gpu_utilization is not None for level in result.levels):
        chart = charts.gpu_against_streams(result)
        figures.append(_figure(chart, "Mean over the GPUs.", [("gpu", "GPU")], 280, half=True))
    return figures


def _figure(
    chart: Chart, note: str, legend: list[tuple[str, str]], height: int, half: bool = False
) -> _Figure:
    width = (WIDE_PX - 24) // 2 if half else WIDE_PX
    return _Figure(
        chart.title,
        note,
        draw(chart, width, height),
        draw(chart, NARROW_PX, min(height, 280)),
        legend,
    )


def _conditions(conditions: Conditions) -> list[tuple[str, str]]:
    parameters = conditions.parameters
    size = "" if parameters is None else f", {parameters / 1e6:,.1f}M parameters"
    gpus = f"{conditions.gpu_count} × {conditions.gpu_model}" if conditions.gpu_model else "none"
    where = conditions.server_location
    generators = f"{conditions.generator_processes} process"
    generators += "" if conditions.generator_processes == 1 else "es"
    return [
        ("Model", f"{conditions.checkpoint}{size}"),
        ("Chunk", f"{conditions.chunk_ms} ms"),
        ("Runtime", f"{conditions.runtime}, {conditions.precision}"),
        ("GPU", gpus),
        ("CPU", f"{conditions.cpu_cores} cores, {conditions.cpu_model}"),
        ("Load generator", f"{generators}; server: {where}"),
        ("Speech", conditions.speech),
        ("Versions", ", ".join(f"{name} {value}" for name, value in conditions.versions.items())),
        ("Started", conditions.started_at),
        ("Command", conditions.command),
    ]
