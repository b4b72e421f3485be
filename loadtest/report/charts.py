"""Build the charts of a result: their series, marks and axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadtest.report.svg import Chart, Marker, RuleLine, Series, Shape
from loadtest.result.document import CapacityResult, Level
from loadtest.service.stages import pipeline_order

HEADROOM_OVER_RULE = 2.0
"""Latencies beyond this multiple of the limit are cut off, else the knee would look flat."""
STAGE_COLOURS = ("stage-1", "stage-2", "stage-3", "stage-4", "stage-5", "stage-6")


def latency_against_streams(result: CapacityResult) -> Chart:
    """Return a chart of the chunk latency of every level, with the rule and the result.

    The lines only connect levels of equal length, as a short hold has fewer of the rare late
    chunks.
    """
    short = [level for level in result.levels if not level.final]
    levels = _one_per_count(short or result.levels)
    rules = [RuleLine(result.rule.p99_ms, f"allowed for p99: {result.rule.p99_ms:.0f} ms")]
    if result.streams:
        rules.append(RuleLine(result.streams, f"{result.streams} streams", vertical=True))
    worst = max(level.chunk_latency.p99_ms for level in result.levels)
    return Chart(
        title="Chunk latency against live streams",
        x_label="live streams",
        y_label="milliseconds",
        x_range=_stream_range(result.levels),
        y_max=min(HEADROOM_OVER_RULE * result.rule.p99_ms, 1.1 * max(worst, result.rule.p99_ms)),
        series=[
            Series(name, name, [(level.streams, _percentile(level, name)) for level in levels])
            for name in ("p50", "p95", "p99")
        ],
        markers=[
            Marker(level.streams, level.chunk_latency.p99_ms, shape(level), describe(level))
            for level in result.levels
        ],
        rules=rules,
    )


def latency_over_time(level: Level, allowed_ms: float) -> Chart:
    """Return a chart of each second of one level, over the load generator's own lateness."""
    time = level.timeline
    worst = max([allowed_ms, *time.p99_ms])
    return Chart(
        title=f"Chunk latency while {level.streams} streams were held",
        x_label="seconds",
        y_label="milliseconds",
        x_range=(min(time.second_s, default=0.0), max(time.second_s, default=1.0)),
        y_max=1.1 * worst,  # not clipped, to show the growing lag of an overload
        series=[
            Series(
                "late", "late", list(zip(time.second_s, time.lateness_p99_ms, strict=True)), True
            ),
            _seconds("p50", time.second_s, time.p50_ms),
            _seconds("p95", time.second_s, time.p95_ms),
            _seconds("p99", time.second_s, time.p99_ms),
        ],
        rules=[RuleLine(allowed_ms, f"allowed for p99: {allowed_ms:.0f} ms")],
    )


def batches_against_streams(result: CapacityResult) -> Chart:
    """Return a chart of the mean batch size of each stage at each level."""
    levels = [level for level in _one_per_count(result.levels) if level.stages]
    largest = max((stage.mean_batch for level in levels for stage in level.stages), default=1.0)
    series = [
        Series(
            model,
            colour,
            [
                (level.streams, stage.mean_batch)
                for level in levels
                for stage in level.stages
                if stage.model == model
            ],
        )
        for model, colour in stage_colours(levels).items()
    ]
    return Chart(
        title="Mean batch size against live streams",
        x_label="live streams",
        y_label="requests per batch",
        x_range=_stream_range(_one_per_count(result.levels)),
        y_max=1.1 * largest,
        series=series,
    )


def cores_against_streams(result: CapacityResult) -> Chart:
    """Return a chart of the CPU cores that server and load generator used at each level."""
    levels, cores = _one_per_count(result.levels), result.conditions.cpu_cores
    return Chart(
        title="CPU cores in use against live streams",
        x_label="live streams",
        y_label="cores",
        x_range=_stream_range(levels),
        y_max=1.15 * cores,
        series=[
            _of_levels("server", levels, lambda level: level.server_cpu_cores),
            _of_levels("generator", levels, lambda level: level.generator_cpu_cores),
        ],
        rules=[RuleLine(cores, f"{cores} cores in the machine")],
    )


def gpu_against_streams(result: CapacityResult) -> Chart:
    """Return a chart of the GPU utilization at each level."""
    levels = _one_per_count(result.levels)
    return Chart(
        title="GPU utilization against live streams",
        x_label="live streams",
        y_label="percent",
        x_range=_stream_range(levels),
        y_max=110,
        series=[_of_levels("gpu", levels, _gpu_percent)],
    )


def stage_colours(levels: Sequence[Level]) -> dict[str, str]:
    """Return a colour for each stage, in pipeline order."""
    models = sorted({stage.model for level in levels for stage in level.stages}, key=pipeline_order)
    return dict(zip(models, STAGE_COLOURS, strict=False))


def describe(level: Level) -> str:
    """Return a sentence about `level`."""
    latency = level.chunk_latency
    words = f"{level.streams} streams for {level.hold_s:.0f} s: p50 {latency.p50_ms:.0f} ms, "
    words += f"p95 {latency.p95_ms:.0f} ms, p99 {latency.p99_ms:.0f} ms, {outcome(level)}"
    return "; ".join([words, *level.reasons])


def outcome(level: Level) -> str:
    """Return `passes`, `fails` or `invalid`."""
    if not level.valid:
        return "invalid"
    return "passes" if level.passes else "fails"


def shape(level: Level) -> Shape:
    """Return the mark of `level` on the chart."""
    if not level.valid:
        return "diamond"
    if not level.passes:
        return "cross"
    return "ring" if level.final else "dot"


def _one_per_count(levels: Sequence[Level]) -> list[Level]:
    """Return the levels sorted by streams; of several holds of a level, the last one."""
    last = {level.streams: level for level in levels}
    return [last[streams] for streams in sorted(last)]


def _stream_range(levels: Sequence[Level]) -> tuple[float, float]:
    return 0.0, 1.06 * max(level.streams for level in levels)


def _percentile(level: Level, name: str) -> float:
    return float(getattr(level.chunk_latency, f"{name}_ms"))


def _seconds(name: str, seconds: Sequence[float], values: Sequence[float]) -> Series:
    """Return a line over seconds, with gaps where no chunk was due and the percentiles are 0."""
    points = [(second, value or None) for second, value in zip(seconds, values, strict=True)]
    return Series(name, name, points)


def _of_levels(css: str, levels: Sequence[Level], value: Callable[[Level], float | None]) -> Series:
    return Series(css, css, [(level.streams, value(level)) for level in levels])


def _gpu_percent(level: Level) -> float | None:
    return None if level.gpu_utilization is None else 100 * level.gpu_utilization
