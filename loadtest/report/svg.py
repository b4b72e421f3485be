"""Draw line charts as inline SVG, coloured by the page's style sheet, light or dark.

A chart is drawn once for each page width, because scaled-down text is unreadable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup, escape

TOP, RIGHT, BOTTOM, LEFT = 30, 14, 42, 46

Shape = Literal["dot", "ring", "cross", "diamond"]


@dataclass(frozen=True)
class Series:
    """A line with the colour of the class `css`; `None` interrupts a line, but not an area."""

    name: str
    css: str
    points: Sequence[tuple[float, float | None]]
    area: bool = False


@dataclass(frozen=True)
class Marker:
    """A single point, with a text that appears under the pointer."""

    x: float
    y: float
    shape: Shape
    hover: str


@dataclass(frozen=True)
class RuleLine:
    """A limit: a dashed line across the chart with a label."""

    at: float
    label: str
    vertical: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart whose y axis begins at zero; values above `y_max` are clipped."""

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_max: float
    series: Sequence[Series]
    markers: Sequence[Marker] = ()
    rules: Sequence[RuleLine] = field(default_factory=list[RuleLine])


def draw(chart: Chart, width: int, height: int) -> Markup:
    """Return the chart as an `svg` element of this size in CSS pixels."""
    plot = _Plot(chart, width - LEFT - RIGHT, height - TOP - BOTTOM)
    inside = [*map(plot.line, chart.series), *map(plot.rule, chart.rules)]
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(chart.title)}">'
        f'<text x="{LEFT - 38}" y="14">{escape(chart.y_label)}</text>'
        f'<text x="{LEFT + plot.width / 2:.0f}" y="{height - 6}" '
        f'text-anchor="middle">{escape(chart.x_label)}</text>'
        f'<g transform="translate({LEFT} {TOP})">{plot.axes()}'
        # An inner svg clips what leaves the plot, without ids that would clash on a page.
        f'<svg width="{plot.width}" height="{plot.height}">{"".join(inside)}</svg>'
        f"{''.join(map(plot.marker, chart.markers))}"
        f"{''.join(map(plot.rule_label, chart.rules))}</g></svg>"
    )


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers from `low` to `high`: at most `about` steps of 1, 2 or 5."""
    span = max(high - low, 1e-9)
    magnitude = 10 ** math.floor(math.log10(span / about))
    steps = (magnitude * factor for factor in (1, 2, 5, 10))
    step = next(step for step in steps if span / step <= about + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


class _Plot:
    """The area inside the axes."""

    def __init__(self, chart: Chart, width: int, height: int) -> None:
        self.chart, self.width, self.height = chart, width, height

    def x(self, value: float) -> float:
        low, high = self.chart.x_range
        return self.width * (value - low) / max(high - low, 1e-9)

    def y(self, value: float) -> float:
        return self.height * (1 - value / self.chart.y_max)

    def axes(self) -> str:
        lines = [
            f'<path class="grid" d="M0 {self.y(tick):.1f}H{self.width}"/>'
            f'<text x="-8" y="{self.y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
            for tick in nice_ticks(0, self.chart.y_max, max(2, self.height // 45))
        ]
        lines += [
            f'<path class="grid" d="M{self.x(tick):.1f} {self.height}v5"/>'
            f'<text x="{self.x(tick):.1f}" y="{self.height + 18}" '
            f'text-anchor="middle">{tick:g}</text>'
            for tick in nice_ticks(*self.chart.x_range, max(2, self.width // 70))
        ]
        return "".join(lines)

    def line(self, series: Series) -> str:
        if series.area:
            return self._area(series)
        path, pen_down = "", False
        for x, y in series.points:
            if y is not None:
                path += f"{'L' if pen_down else 'M'}{self.x(x):.1f} {self.y(y):.1f}"
            pen_down = y is not None
        return f'<path class="line {series.css}" d="{path}"/>'

    def _area(self, series: Series) -> str:
        if not series.points:
            return ""
        tops = [f"L{self.x(x):.1f} {self.y(y or 0):.1f}" for x, y in series.points]
        first, last = self.x(series.points[0][0]), self.x(series.points[-1][0])
        path = f"M{first:.1f} {self.height}{''.join(tops)}L{last:.1f} {self.height}Z"
        return f'<path class="area {series.css}" d="{path}"/>'

    def rule(self, rule: RuleLine) -> str:
        path = (
            f"M{self.x(rule.at):.1f} 0V{self.height}"
            if rule.vertical
            else (f"M0 {self.y(rule.at):.1f}H{self.width}")
        )
        return f'<path class="rule" d="{path}"/>'

    def rule_label(self, rule: RuleLine) -> str:
        if not rule.vertical:
            position = f'x="4" y="{self.y(rule.at) - 6:.1f}"'
        else:
            # Placed on the side of the line that has room.
            left = self.x(rule.at) > self.width / 2
            anchor, shift = ("end", -7) if left else ("start", 7)
            position = f'x="{self.x(rule.at) + shift:.1f}" y="12" text-anchor="{anchor}"'
        return f'<text class="rule-label" {position}>{escape(rule.label)}</text>'

    def marker(self, marker: Marker) -> str:
        x, y = self.x(marker.x), max(0.0, self.y(marker.y))
        hover = f"<title>{escape(marker.hover)}</title>"
        mark = f'<g class="mark {marker.shape}" transform="translate({x:.1f} {y:.1f})">{hover}'
        if marker.y > self.chart.y_max:
            anchor = "end" if x > self.width - 60 else "start"
            shift = -8 if anchor == "end" else 8
            mark += f'<text class="over" x="{shift}" y="-6" text-anchor="{anchor}">'
            mark += f"{marker.y:,.0f} ↑</text>"
        return f"{mark}{_SHAPES[marker.shape]}</g>"


_SHAPES: dict[Shape, str] = {
    "dot": '<circle r="4"/>',
    "ring": '<circle r="7"/><circle class="core" r="4"/>',
    "cross": '<path d="M-5 -5L5 5M-5 5L5 -5"/>',
    "diamond": '<path d="M0 -6L6 0L0 6L-6 0Z"/>',
}
