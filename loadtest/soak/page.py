"""Render the page of a soak: verdict, figures at start and end, and memory over time."""

from __future__ import annotations

from pathlib import Path

from loadtest.report.svg import Chart, Series, draw
from loadtest.report.templates import load_template
from loadtest.soak.document import MIB, Reading, SoakResult

TEMPLATE = Path(__file__).with_name("page.html.j2")
WIDTH_PX, HEIGHT_PX = 900, 260


def render(result: SoakResult) -> str:
    """Return the page as HTML."""
    start, warm, end = result.readings[0], result.settled, result.readings[-1]
    return load_template(TEMPLATE).render(
        result=result,
        columns=[("start", start), (f"after {warm.at_s:.0f} s", warm), ("end", end)],
        rows=[
            ("Resident memory, MiB", [_mib(reading.rss_bytes) for reading in (start, warm, end)]),
            ("Shared memory, MiB", [_mib(reading.shm_bytes) for reading in (start, warm, end)]),
            ("File descriptors", [_shown(r.file_descriptors) for r in (start, warm, end)]),
            ("Slots taken", [_shown(reading.slots) for reading in (start, warm, end)]),
        ],
        charts=[
            draw(_memory(result), WIDTH_PX, HEIGHT_PX),
            draw(_slots(result), WIDTH_PX, HEIGHT_PX),
        ],
    )


def _memory(result: SoakResult) -> Chart:
    points = [(r.at_s, _in_mib(r)) for r in result.readings]
    return _over_time(result, "Resident memory of the server", "MiB", "server", points)


def _slots(result: SoakResult) -> Chart:
    points = [(r.at_s, None if r.slots is None else float(r.slots)) for r in result.readings]
    return _over_time(result, "Slots taken", "streams", "generator", points)


def _over_time(
    result: SoakResult, title: str, unit: str, css: str, points: list[tuple[float, float | None]]
) -> Chart:
    return Chart(
        title=title,
        x_label="seconds",
        y_label=unit,
        x_range=(0.0, max(1.0, result.readings[-1].at_s)),
        y_max=1.1 * max((value for _, value in points if value), default=1.0),
        series=[Series(title, css, points)],
    )


def _in_mib(reading: Reading) -> float | None:
    return None if reading.rss_bytes is None else reading.rss_bytes / MIB


def _mib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / MIB:,.1f}"


def _shown(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"
