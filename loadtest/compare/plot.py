"""`python -m loadtest baseline-plot`: word error rate against streams per core, from a record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.options import exiting_on
from loadtest.result.baseline import BaselineResult, RecognizerFigures

TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Streams per core, on a logarithmic axis."""


def main(
    result: Annotated[Path, typer.Argument(help="Document of `baseline`.")],
    output: Annotated[Path, typer.Option(help="Picture to write (.svg, .png).")],
) -> None:
    """Draw word error rate against streams per core, with a panel for each set."""
    with exiting_on(OSError, ValueError):
        plot_comparison(BaselineResult.from_json(result), output)


def plot_comparison(result: BaselineResult, path: Path) -> None:
    """Write a plot of the recognizers in `result`; the suffix of `path` is the format.

    Raises:
        ValueError: No recognizer has streams per core, or the format is unknown.
    """
    from matplotlib.figure import Figure  # takes a second, which other commands need not wait

    sets = result.comparison.sets
    shown = [each for each in result.comparison.recognizers if each.streams_per_core]
    if not shown:
        raise ValueError("no recognizer of this result has streams per core")
    figure = Figure(figsize=(1 + 3 * len(sets), 3.6), layout="constrained")
    panels: Any = figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)
    for axes, each in zip(panels[0], sets, strict=True):
        axes.set_title(f"{each.name}\n{each.words} words, {each.audio_s:.0f} s", fontsize=9)
        _plot_set(axes, shown, each.name)
    panels[0, 0].set_ylabel("word error rate, %")
    worst = max(each.word_error_rate[one.name] for each in shown for one in sets)
    panels[0, 0].set_ylim(bottom=-5 * worst, top=115 * worst)
    figure.supxlabel(f"streams per core of {result.cpu_model}, by CPU time", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _plot_set(axes: Any, recognizers: Sequence[RecognizerFigures], speech_set: str) -> None:
    per_core = [each.streams_per_core or 0.0 for each in recognizers]
    lowest, highest = min(per_core) / 2, max(per_core) * 2
    for number, (each, streams) in enumerate(zip(recognizers, per_core, strict=True)):
        percent, color = 100 * each.word_error_rate[speech_set], f"C{number}"
        axes.scatter(streams, percent, s=45, color=color)
        # Put the label on the side that has room.
        side, ha = (-8, "right") if streams > (lowest * highest) ** 0.5 else (8, "left")
        axes.annotate(
            f"{each.name.partition(',')[0]}\n{percent:.1f} %",
            (streams, percent),
            **{"xytext": (side, -3), "textcoords": "offset points", "ha": ha},
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlim(lowest, highest)
    ticks = [tick for tick in TICKS if lowest <= tick <= highest]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
