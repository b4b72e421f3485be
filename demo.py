"""``make demo``: real speech through the whole service, then how many live streams a core carries.

Starts the embedded Triton on the exported demo model, streams a few recordings to it and prints
what it heard beside what was said, then holds more and more live streams until text comes late.
"""

from __future__ import annotations

import csv
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

from loadtest.pacing import WARM_UP_S, Level
from loadtest.quick import largest_count
from loadtest.server_process import ServerEnded, ServerProcess, serving
from loadtest.speech import RECORDINGS, load_speech

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
    except (ServerEnded, earshot.EarshotError) as error:
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
    _print_capacity(server, info.max_streams)


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


def _print_capacity(server: ServerProcess, limit: int) -> None:
    used = _CpuMeter(server)
    cores_used: dict[int, float] = {}
    with Progress(console=_console, transient=True) as progress:
        progress.add_task("live streams", total=None)

        def report(level: Level) -> None:
            # A late send counts as latency, so a level that passes does so in spite of it.
            late = "late" if level.valid else "late, and so was the load generator"
            mark = "[green]in time[/green]" if level.passes else f"[red]{late}[/red]"
            cores_used[level.streams] = used.since_last_s() / (WARM_UP_S + level.hold_s)
            progress.console.print(
                f"  {level.streams:4d} live streams: text after {level.percentile_ms(50):4.0f} ms "
                f"(p50), {level.p99_ms:4.0f} ms (p99)  {mark}"
            )

        best = largest_count(server.url, load_speech(), limit, report)
    if best is None:
        _console.print("this machine does not carry the first level of live streams")
        return
    cores = cores_used[best.streams]
    _console.print(
        f"\n[bold]{best.streams} live streams, {best.streams / cores:.0f} per core[/bold] "
        f"(the server used {cores:.1f} cores, the load generator shares the machine; p99 of "
        f"{best.p99_ms:.0f} ms from the end of a {best.chunk_ms} ms chunk to its text; held for "
        f"{best.hold_s:.0f} s)"
    )


class _CpuMeter:
    """CPU seconds of all server processes, from one look to the next."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._last_s = sum(server.cpu_s().values())

    def since_last_s(self) -> float:
        """CPU seconds since the last call."""
        before_s, self._last_s = self._last_s, sum(self._server.cpu_s().values())
        return self._last_s - before_s


if __name__ == "__main__":
    typer.run(main)
