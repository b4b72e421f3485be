"""``make demo``: real speech through the whole service, then how many live streams a core carries.

Starts the embedded Triton on the exported demo model, streams a few recordings to it and prints
what it heard beside what was said, then holds more and more live streams until text comes late.
"""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import earshot
import jiwer
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from whisper_normalizer.english import EnglishTextNormalizer

from loadtest.pacing import Level
from loadtest.quick import largest_count
from loadtest.speech import RECORDINGS, load_speech
from server.errors import ServerError
from server.launch import Triton, running

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
        with _console.status("starting Triton"), running(repository) as triton:
            _show(triton)
    except (ServerError, earshot.EarshotError) as error:
        _console.print(f"[red]error:[/red] {error}", markup=True)
        sys.exit(1)


def _show(triton: Triton) -> None:
    with earshot.connect(triton.grpc_url) as client:
        info = client.info
        _console.print(
            f"serving [bold]{info.model}[/bold] ({info.precision}, {info.chunk_ms} ms chunks) on "
            f"{info.server} at {triton.grpc_url}\n"
        )
        _print_transcripts(_transcribe_all(client))
    _print_capacity(triton, info.max_streams)


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


def _print_capacity(triton: Triton, limit: int) -> None:
    with Progress(console=_console, transient=True) as progress:
        task = progress.add_task("live streams", total=None)

        def report(level: Level) -> None:
            # A late send counts as latency, so a level that passes does so in spite of it.
            late = "late" if level.valid else "late, and so was the load generator"
            mark = "[green]in time[/green]" if level.passes else f"[red]{late}[/red]"
            progress.console.print(
                f"  {level.streams:4d} live streams: text after {level.percentile_ms(50):4.0f} ms "
                f"(p50), {level.p99_ms:4.0f} ms (p99)  {mark}"
            )
            progress.advance(task)

        best = largest_count(triton.grpc_url, load_speech(), limit, report)
    if best is None:
        _console.print("this machine does not carry the first level of live streams")
        return
    cores = os.cpu_count() or 1
    _console.print(
        f"\n[bold]{best.streams / cores:.0f} live streams per core[/bold] "
        f"({best.streams} on {cores} cores, load generator included; p99 of {best.p99_ms:.0f} ms "
        f"from the end of a {best.chunk_ms} ms chunk to its text; held for {best.hold_s:.0f} s)"
    )


if __name__ == "__main__":
    typer.run(main)
