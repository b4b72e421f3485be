"""`make demo`: stream real speech through the service, then count live streams per core.

It starts the embedded Triton with the exported demo model, streams a few recordings to it, prints
each transcript next to the reference, and then holds more and more live streams until text is late.
"""

from __future__ import annotations

import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore

import sys
from pathlib import Path
from typing import Annotated

import earshot
import typer
from rich.console import Console
from rich.table import Table

from loadtest.audio.recordings import LabelledRecording, find_recordings
from loadtest.audio.word_errors import count_errors, total
from loadtest.capacity.display import Display
from loadtest.capacity.measure import measuring
from loadtest.capacity.runner import LoadRunnerFailed
from loadtest.capacity.search import SearchOptions, search
from loadtest.options import RECORDINGS, LoadOptions
from loadtest.result.document import Level
from loadtest.service.server import ServerEnded, ServerProcess, serving

HOLD_S = 5.0
SEARCH = SearchOptions(resolution=0.15, long=False)
"""For a first impression; `make capacity` searches more precisely, and holds levels for longer."""
_console = Console()
app = typer.Typer(add_completion=False)


@app.command()
def main(
    repository: Annotated[Path, typer.Option(help="Exported models.")] = Path("model_repository"),
) -> None:
    """Transcribe real speech on an embedded Triton and count live streams per core."""
    try:
        with serving(repository) as server:
            _show(server)
    except (ServerEnded, LoadRunnerFailed, earshot.EarshotError, ValueError) as error:
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


def _print_transcripts(
    recordings: list[LabelledRecording], transcripts: list[earshot.Transcript]
) -> None:
    table = Table(title="Real speech, streamed over gRPC", show_lines=True)
    table.add_column("recording", no_wrap=True)
    table.add_column("reference")
    table.add_column("recognized")
    table.add_column("WER", justify="right")
    references = [recording.transcript for recording in recordings]
    errors = count_errors(references, [transcript.text for transcript in transcripts])
    for recording, transcript, each in zip(recordings, transcripts, errors, strict=True):
        table.add_row(
            recording.path.name, recording.transcript, transcript.text, f"{each.rate:.0%}"
        )
    _console.print(table)
    seconds = sum(transcript.duration_s for transcript in transcripts)
    rate = total(errors).rate
    _console.print(f"word error rate over {seconds:.0f} s: [bold]{rate:.1%}\n")


def _print_capacity(server: ServerProcess, info: earshot.ServerInfo) -> None:
    options = LoadOptions(url=server.url, metrics_url=server.metrics_url, hold_s=HOLD_S)
    with measuring(options, Display(_console, _print_level)) as measurement:
        found = search(measurement.hold, info.max_streams, SEARCH)
    best = [level for level in found.levels if level.streams == found.streams]
    if not best:
        _console.print("this machine does not sustain the first level of live streams")
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
    mark = {
        "pass": "[green]in time[/green]",
        "fail": "[red]late[/red]",
        "invalid": "[red]the load generator was late[/red]",
    }[level.verdict]
    latency = level.chunk_latency
    _console.print(
        f"  {level.streams:4d} live streams: text after {latency.p50_ms:4.0f} ms (p50), "
        f"{latency.p99_ms:4.0f} ms (p99)  {mark}"
    )
    if level.verdict == "fail" and level.failures:
        _console.print("  ".join(level.reasons), style="red", markup=False)
