"""Show a run on the terminal: its progress, and then a line for each level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from loadtest.live.check import latency_of
from loadtest.live.samples import SampleCollector
from loadtest.options import console
from loadtest.result.document import Level
from loadtest.result.level_line import print_level


@dataclass(frozen=True)
class Display:
    """The console for progress, and the function that shows a finished level."""

    console: Console = console
    show_level: Callable[[Level], None] = print_level

    def progress(self) -> Progress:
        """Return a progress display, which shows nothing if the console is not a terminal."""
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )


def progress_line(streams: int, at_s: float, hold_s: float, collector: SampleCollector) -> str:
    """Return the state of a hold in one line."""
    latency = latency_of(collector.take_recent().latency_ms)
    at = f"{at_s:3.0f}/{hold_s:.0f} s" if at_s >= 0 else "warming up"
    return (
        f"{streams:5d} streams  {at}  text p50 {latency.p50_ms:.0f}  p99 {latency.p99_ms:.0f} ms"
        f"  failures {collector.failed_streams()}"
    )
