"""Draw the panels of the Grafana dashboard from Prometheus data, for documents, without Grafana.

`python deploy/dashboard_picture.py http://localhost:9090 docs/dashboard.svg --minutes 5`
"""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from matplotlib.figure import Figure

DASHBOARD = Path(__file__).parent / "chart" / "files" / "dashboard.json"
_COLUMNS = 3
_POINTS = 120

Panel: TypeAlias = dict[str, Any]
Line: TypeAlias = tuple[str, list[float], list[float]]
"""Legend, minutes, values."""


def main(
    prometheus: Annotated[str, typer.Argument(help="URL of the Prometheus.")],
    output: Annotated[Path, typer.Argument(help="Picture to write (.svg, .png).")],
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes to draw, up to now.")] = 60.0,
    rate_s: Annotated[int, typer.Option(min=1, help="Value of $__rate_interval.")] = 60,
) -> None:
    """Draw every panel of the dashboard that has data."""
    draw(prometheus, output, minutes, rate_s)


def draw(prometheus: str, output: Path, minutes: float, rate_s: int) -> list[str]:
    """Draw the last `minutes` of every panel with data into one picture; return the titles."""
    panels: list[Panel] = json.loads(DASHBOARD.read_text())["panels"]
    source = _Source(prometheus, minutes, rate_s)
    found = [(panel, lines) for panel in panels if (lines := list(source.lines(panel)))]
    rows = math.ceil(len(found) / _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 3.2 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, _COLUMNS, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    for each, (panel, lines) in zip(axes.flat, found, strict=False):
        each.set_axis_on()
        each.set_title(panel["title"], loc="left", fontsize=10, fontweight="bold")
        _KINDS[panel["type"]](each, panel, lines)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=80)
    return [panel["title"] for panel, _ in found]


class _Source:
    """Asks Prometheus for the queries of panels."""

    def __init__(self, url: str, minutes: float, rate_s: int) -> None:
        self._url = url
        self._end_s = time.time()
        self._begin_s = self._end_s - 60 * minutes
        self._rate_s = rate_s

    def lines(self, panel: Panel) -> Iterator[Line]:
        """Yield the series of a panel that have a finite value."""
        for target in panel["targets"]:
            for series in self._ask(target["expr"].replace("$__rate_interval", f"{self._rate_s}s")):
                points = [(float(at_s), float(value)) for at_s, value in series["values"]]
                if any(math.isfinite(value) for _, value in points):
                    minutes = [(at_s - self._begin_s) / 60 for at_s, _ in points]
                    legend = _legend(target["legendFormat"], series["metric"])
                    yield legend, minutes, [value for _, value in points]

    def _ask(self, expression: str) -> list[Any]:
        parameters = {
            "query": expression,
            "start": self._begin_s,
            "end": self._end_s,
            "step": (self._end_s - self._begin_s) / _POINTS,
        }
        url = f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]["result"]


def _legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), form)


def _draw_lines(axes: Any, panel: Panel, lines: list[Line]) -> None:
    for legend, minutes, values in lines:
        axes.plot(minutes, values, label=legend, linewidth=1.2)
    top = max(value for _, _, values in lines for value in values if math.isfinite(value))
    axes.set_ylim(0, 1.05 * top or 1)
    axes.set_ylabel(panel["fieldConfig"]["defaults"]["unit"], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False)


def _draw_number(axes: Any, panel: Panel, lines: list[Line]) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, f"{lines[0][2][-1]:.0%}", fontsize=36, ha="center", va="center")


def _draw_table(axes: Any, panel: Panel, lines: list[Line]) -> None:
    axes.set_axis_off()
    cells = [[legend, f"{values[-1]:g}"] for legend, _, values in lines]
    axes.table(cells, colLabels=["version", "replicas"], loc="center")


def _draw_heat_map(axes: Any, panel: Panel, lines: list[Line]) -> None:
    """Draw the number of observations in each bucket of a histogram, over time."""
    bounds = sorted(lines, key=lambda line: float(line[0]))
    minutes = max((line[1] for line in bounds), key=len)
    cumulative = [_aligned(line, minutes) for line in bounds]
    counts = [
        [max(0.0, upper - lower) for upper, lower in zip(row, below, strict=True)]
        for row, below in zip(cumulative, [[0.0] * len(minutes), *cumulative], strict=False)
    ]
    axes.pcolormesh(minutes, range(len(bounds)), counts, cmap="Blues", shading="nearest")
    axes.set_yticks(range(len(bounds)), [f"{line[0]} s" for line in bounds], fontsize=7)
    axes.tick_params(labelsize=7)


def _aligned(line: Line, minutes: list[float]) -> list[float]:
    known = dict(zip(line[1], line[2], strict=True))
    values = [known.get(minute, 0.0) for minute in minutes]
    return [value if math.isfinite(value) else 0.0 for value in values]


_KINDS = {
    "timeseries": _draw_lines,
    "stat": _draw_number,
    "table": _draw_table,
    "heatmap": _draw_heat_map,
}

if __name__ == "__main__":
    typer.run(main)
