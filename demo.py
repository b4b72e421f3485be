"""``make demo``: real speech through the whole service, then how many live streams a core carries.

Starts the embedded Triton on the exported demo model, streams a few recordings to it and prints
what it heard beside what was said, then holds more and more live streams until text comes late.
"""

from __future__ import annotations

import loadtest.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore

import sys
from pathlib import Path
from typing import Annotated

import earshot
import typer
from rich.console import Console
from rich.table import Table

from loadtest.crowd import CrowdFailed
from loadtest.measure import Setup, measuring
from loadtest.recordings import Recording, find_recordings
from loadtest.report_line import verdict_of
from loadtest.result import Level
from loadtest.search import search
from loadtest.server_process import ServerEnded, ServerProcess, serving
from loadtest.speech import RECORDINGS
from loadtest.word_errors import score, total

HOLD_S = 5.0
RESOLUTION = 0.15
"""A quick look: `make capacity` finds the count more closely, and holds it for longer."""
_console = Console()


def main(
    repository: Annotated[Path, typer.Option(help="Exported models.")] = Path("model_repository"),
) -> None:
    """Transcribe real speech on an embedded Triton and count live streams per core."""
    try:
        with serving(repository) as server:
            _show(server)
    except (ServerEnded, CrowdFailed, earshot.EarshotError, ValueError) as error:
        _console.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)


def _show(server: ServerProcess) -> None:
    with earshot.connect(server.url) as client:
        info = client.info
        _console.print(
            f"serving [bold]{info.model}[/bold] ({info.precision}, {info.chunk_ms} ms chunks) on "
            f"{info.server} at {server.url}\n"
        )
        recordings = find_recordings(RECORDINGS)
        _print_transcripts(
            recordings, [client.transcribe(each.path, streaming=True) for each in recordings]
        )
    _print_capacity(server, info)


def _print_transcripts(recordings: list[Recording], heard: list[earshot.Transcript]) -> None:
    table = Table(title="Real speech, streamed over gRPC", show_lines=True)
    table.add_column("recording", no_wrap=True)
    table.add_column("said")
    table.add_column("heard")
    table.add_column("WER", justify="right")
    said = [recording.said for recording in recordings]
    scores = score(said, [transcript.text for transcript in heard])
    for recording, transcript, each in zip(recordings, heard, scores, strict=True):
        table.add_row(recording.path.name, recording.said, transcript.text, f"{each.rate:.0%}")
    _console.print(table)
    seconds = sum(transcript.duration_s for transcript in heard)
    rate = total(scores).rate
    _console.print(f"word error rate over {seconds:.0f} s: [bold]{rate:.1%}\n")


def _print_capacity(server: ServerProcess, info: earshot.ServerInfo) -> None:
    setup = Setup(server.url, server.metrics_url)
    with measuring(setup, _console, _print_level) as measurement:
        found = search(
            lambda streams, final: measurement.hold(streams, HOLD_S, final),
            info.max_streams,
            resolution=RESOLUTION,
            long=False,
        )
    best = [level for level in found.levels if level.streams == found.streams]
    if not best:
        _console.print("this machine does not carry the first level of live streams")
        return
    level = best[-1]
    cores = level.server_cpu_cores or measurement.conditions.cpu_cores
    _console.print(
        f"\n[bold]{level.streams} live streams, {level.streams / cores:.0f} per core[/bold] "
        f"(the server used {cores:.1f} cores, the load generator shares the machine; p99 of "
        f"{level.chunk_latency.p99_ms:.0f} ms from the end of a {info.chunk_ms} ms chunk to its "
        f"text; held for {HOLD_S:.0f} s)"
    )


def _print_level(level: Level) -> None:
    verdict = verdict_of(level)
    mark = {
        "pass": "[green]in time[/green]",
        "fail": "[red]late[/red]",
        "invalid": "[red]the load generator was late[/red]",
    }[verdict]
    latency = level.chunk_latency
    _console.print(
        f"  {level.streams:4d} live streams: text after {latency.p50_ms:4.0f} ms (p50), "
        f"{latency.p99_ms:4.0f} ms (p99)  {mark}"
    )
    if verdict == "fail" and level.failures:
        _console.print("  ".join(level.reasons), style="red", markup=False)


if __name__ == "__main__":
    typer.run(main)
