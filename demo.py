"""``make demo``: real speech through the whole service, then how many live streams a core carries.

Starts the embedded Triton on the exported demo model, streams a few recordings to it and prints
what it heard beside what was said, then holds more and more live streams until text comes late.
"""

from __future__ import annotations

import loadtest.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import earshot
import jiwer
import typer
from rich.console import Console
from rich.table import Table
from whisper_normalizer.english import EnglishTextNormalizer

from loadtest.crowd import CrowdFailed
from loadtest.measure import Setup, measuring
from loadtest.report_line import verdict_of
from loadtest.result import Level
from loadtest.search import search
from loadtest.server_process import ServerEnded, ServerProcess, serving
from loadtest.speech import RECORDINGS

HOLD_S = 5.0
RESOLUTION = 0.15
"""A quick look: `make capacity` finds the count more closely, and holds it for longer."""
_console = Console()


@dataclass(frozen=True)
class Heard:
    """A recording, what was said and what the service heard."""

    file: str
    said: str
    heard: str
    seconds: float


def main(
    repository: Annotated[Path, typer.Option(help="Exported models.")] = Path("model_repository"),
) -> None:
    """Transcribe real speech on an embedded Triton and count live streams per core."""
    try:
        with serving(repository) as server:
            _show(server)
    except (ServerEnded, CrowdFailed, earshot.EarshotError) as error:
        _console.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)


def _show(server: ServerProcess) -> None:
    with earshot.connect(server.url) as client:
        info = client.info
        _console.print(
            f"serving [bold]{info.model}[/bold] ({info.precision}, {info.chunk_ms} ms chunks) on "
            f"{info.server} at {server.url}\n"
        )
        _print_transcripts(_transcribe_all(client))
    _print_capacity(server, info)


def _transcribe_all(client: earshot.Client) -> list[Heard]:
    """Every recording of the repository, streamed as fast as the server answers."""
    heard: list[Heard] = []
    for manifest in sorted(RECORDINGS.rglob("manifest.tsv")):
        with manifest.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                transcript = client.transcribe(manifest.parent / row["file"])
                heard.append(
                    Heard(row["file"], row["transcript"], transcript.text, transcript.duration_s)
                )
    return heard


def _print_transcripts(results: list[Heard]) -> None:
    normalize = EnglishTextNormalizer()
    table = Table(title="Real speech, streamed over gRPC", show_lines=True)
    table.add_column("recording", no_wrap=True)
    table.add_column("said")
    table.add_column("heard")
    table.add_column("WER", justify="right")
    said = [normalize(result.said) for result in results]
    heard = [normalize(result.heard) for result in results]
    for result, reference, hypothesis in zip(results, said, heard, strict=True):
        rate = jiwer.wer(reference, hypothesis)
        table.add_row(result.file, result.said, result.heard, f"{rate:.0%}")
    _console.print(table)
    seconds = sum(result.seconds for result in results)
    _console.print(f"word error rate over {seconds:.0f} s: [bold]{jiwer.wer(said, heard):.1%}\n")


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
