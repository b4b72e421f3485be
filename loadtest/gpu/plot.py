"""Plot the levels of one GPU: the streams that were held in time, and their latencies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtest.result.document import CapacityResult, Level

PUBLISHED = {160: 240, 320: 560, 560: 900, 1120: 2400}
"""Live streams, by chunk length, that NVIDIA publishes for its streaming transducers of 0.6B
parameters on one H100 with 28 cores: Nemotron Speech up to 560 ms, Nemotron 3.5 at 1120 ms."""
COLOURS = {160: "tab:purple", 320: "tab:orange", 560: "tab:blue", 1120: "tab:green"}
TICKS = (25, 50, 100, 200, 400)


def plot_levels(results: Sequence[CapacityResult], path: Path) -> None:
    """Write a plot of `results` of one GPU; the suffix is the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _figure(results).savefig(path)


def levels_svg(results: Sequence[CapacityResult]) -> str:
    """Return the same plot as an SVG element."""
    picture = StringIO()
    _figure(results).savefig(picture, format="svg")
    text = picture.getvalue()
    return text[text.index("<svg") :]


def title_of(result: CapacityResult) -> str:
    """Return a title with the model and the hardware of a result."""
    given = result.conditions
    return (
        f"{given.checkpoint}, {given.precision}, one {given.gpu_model}, with the load generator on "
        f"the same {given.cpu_cores} cores"
    )


def _figure(results: Sequence[CapacityResult]) -> Any:
    from matplotlib.figure import Figure  # imported here because it takes a second

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    figure.suptitle(title_of(results[0]), x=0.01, ha="left", fontsize=10)
    _plot_held(axes[0], results)
    _plot_latency(axes[1], results)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", alpha=0.3)
        each.set_axisbelow(True)
    return figure


def held_streams(results: Sequence[CapacityResult]) -> dict[int, Level]:
    """Return the level with the most streams that passed a final hold, by chunk."""
    held = [
        (result.conditions.chunk_ms, level)
        for result in results
        for level in result.levels
        if level.final and level.verdict == "pass"
    ]
    return dict(sorted(held, key=lambda pair: pair[1].streams))  # the last of each chunk wins


def _plot_held(axes: Any, results: Sequence[CapacityResult]) -> None:
    held = held_streams(results)
    tried = {result.conditions.chunk_ms for result in results}
    for place, (chunk_ms, published) in enumerate(PUBLISHED.items()):
        _bar(axes, place - 0.2, published, f"{published:,}", "tab:gray")
        if level := held.get(chunk_ms):
            words = f"{level.streams:,}\nfor {level.hold_s:.0f} s"
            _bar(axes, place + 0.2, level.streams, words, "tab:blue")
        else:
            words = "not\nheld" if chunk_ms in tried else "not\ntried"
            axes.text(place + 0.2, 0, words, ha="center", va="bottom", fontsize=8)
    axes.bar(0, 0, color="tab:gray", label="published by NVIDIA, H100")
    axes.bar(0, 0, color="tab:blue", label="held here, in time to the end")
    axes.set_xticks(range(len(PUBLISHED)), [f"{chunk_ms} ms" for chunk_ms in PUBLISHED])
    axes.set_ylim(top=1.2 * max([*PUBLISHED.values(), *(each.streams for each in held.values())]))
    axes.set_ylabel("live streams on one GPU")
    axes.legend(frameon=False, loc="upper left", fontsize=8)


def _bar(axes: Any, place: float, height: int, words: str, color: str) -> None:
    bars = axes.bar(place, height, width=0.38, color=color)
    axes.bar_label(bars, [words], fontsize=8, padding=2)


def _plot_latency(axes: Any, results: Sequence[CapacityResult]) -> None:
    for chunk_ms, level in _levels(results):
        share = 100 * level.chunk_latency.p99_ms / chunk_ms
        axes.scatter(level.streams, share, s=45, **_mark(level, COLOURS.get(chunk_ms, "black")))
        if level.final:
            at = (level.streams, share)
            style = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{level.hold_s:.0f} s", at, fontsize=8, **style)
    axes.axhline(100, color="tab:red", linestyle="--", linewidth=1)
    axes.set_xlabel("live streams")
    axes.set_ylabel("p99 chunk latency, % of a chunk")
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.set_yscale("log", base=2)
    axes.set_yticks(TICKS, list(map(str, TICKS)))
    for chunk_ms in sorted({chunk_ms for chunk_ms, _ in _levels(results)}):
        axes.scatter([], [], color=COLOURS.get(chunk_ms, "black"), label=f"{chunk_ms} ms")
    axes.scatter([], [], edgecolors="black", facecolors="none", label="in time for some seconds")
    axes.scatter([], [], color="black", marker="x", label="not in time")
    axes.legend(frameon=False, loc="upper left", fontsize=8)


def _mark(level: Level, color: str) -> dict[str, str]:
    """Return the mark of a level: a dot for a passed final hold, a ring for a short one."""
    if level.verdict != "pass":
        return {"color": color, "marker": "x"}
    return {"edgecolors": color, "facecolors": color if level.final else "none"}


def _levels(results: Sequence[CapacityResult]) -> Iterator[tuple[int, Level]]:
    for result in results:
        for level in result.levels:
            if level.valid:
                yield result.conditions.chunk_ms, level
