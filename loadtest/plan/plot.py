"""Plot a simulated day."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtest.plan.day import SimulatedDay


def plot_day(day: SimulatedDay, title: str, unit: str, capacity: int, path: Path) -> None:
    """Write a plot of streams, replicas and refusals over the hours; the suffix is the format."""
    from matplotlib.figure import Figure  # imported here because it takes a second

    hours = [minute / 60 for minute in range(len(day.minutes))]
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes: Any = figure.subplots(3, sharex=True, height_ratios=[3, 2, 1])
    streams, replicas, refusals = axes
    streams.set_title(title, loc="left", fontsize=10)
    streams.plot(hours, [minute.live for minute in day.minutes], label="live streams")
    sustained = [minute.serving * capacity for minute in day.minutes]
    streams.plot(hours, sustained, label="that the serving replicas sustain", color="tab:gray")
    streams.legend(frameon=False)
    count = [minute.replicas for minute in day.minutes]
    serving = [minute.serving for minute in day.minutes]
    replicas.step(hours, count, label=f"{unit}s in use", color="tab:orange")
    replicas.step(hours, serving, label="of them take new streams", color="tab:green")
    replicas.legend(frameon=False)
    refusals.step(hours, [minute.refused for minute in day.minutes], color="tab:red")
    refusals.set_ylabel("refused per minute")
    refusals.set_xlabel("hour")
    refusals.set_xticks(range(0, 25, 3))
    for each in axes:
        each.set_ylim(bottom=0)
        each.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
