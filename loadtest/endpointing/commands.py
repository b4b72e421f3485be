"""`python -m loadtest endpointing`: count correct and false ends of utterances.

Real recordings are joined with pauses of known length and streamed, as fast as the server answers,
with several values of `endpoint_ms`. The reported ends are compared with the known ones. The time
of a report is the audio sent until then; the server's latency, a few milliseconds, is not included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import DEFAULT_REPOSITORY, RECORDINGS, Model, Output, console, exiting_on

_SEED = 1


def endpointing(
    repositories: Annotated[
        list[Path] | None,
        typer.Option(
            "--repository",
            help="Exported models to serve; may be repeated, for several lengths of chunks.",
        ),
    ] = None,
    model: Model = None,
    recordings: Annotated[
        Path,
        typer.Option(
            help="Folder with manifest.tsv files (columns file, transcript). Default: the bundled "
            "recordings.",
            show_default=False,
        ),
    ] = RECORDINGS,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Use only the set in the folder of this name; may be repeated."),
    ] = None,
    output: Output = Path("build/endpointing.json"),
) -> None:
    """Count the ends of utterances that are found in time, late, and falsely."""
    import earshot

    from loadtest.result.files import require_writable, write_whole
    from loadtest.service.server import ServerEnded

    with exiting_on(earshot.EarshotError, ServerEnded, OSError, ValueError):
        require_writable(output)
        result = _measure(repositories or [DEFAULT_REPOSITORY], model, recordings, sets)
        write_whole(output, json.dumps(result, indent=2) + "\n")
    Console().print(_table(result))


def _measure(
    repositories: list[Path], model: str | None, recordings: Path, sets: list[str] | None
) -> dict[str, Any]:
    from loadtest.audio.recordings import SAMPLE_RATE_HZ, find_recordings
    from loadtest.endpointing.conversations import write_conversations
    from loadtest.endpointing.measure import measure
    from loadtest.endpointing.score import ALLOWED_MS, ALLOWED_SPEECH_MS
    from loadtest.result.machine import cpu_model, now
    from loadtest.service.server import serving

    found = find_recordings(recordings, sets)
    conversations = write_conversations(found, _SEED)
    runs: list[dict[str, Any]] = []
    for repository in repositories:
        with serving(repository) as server, console.status(f"streaming to {repository}"):
            runs.append(measure(server.url, model, conversations))
    return {
        "kind": "endpointing",
        "recordings": {
            name: sum(one.speech_set == name for one in found)
            for name in sorted({one.speech_set for one in found})
        },
        "audio_s": round(sum(one.samples.size for one in conversations) / SAMPLE_RATE_HZ),
        "conversations": len(conversations),
        "allowed_ms": ALLOWED_MS,
        "allowed_speech_ms": ALLOWED_SPEECH_MS,
        "runs": runs,
        "machine": cpu_model(),
        "measured": now(),
    }


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['conversations']} conversations, {result['audio_s']} s of audio")
    columns = ("chunk", "endpoint", "found", "late", "missed", "wordless", "false", "chunks", "WER")
    for column in columns:
        table.add_column(column, justify="right")
    for run in result["runs"]:
        for figures in run["endpoints"]:
            table.add_row(f"{run['chunk_ms']} ms", *_cells(figures))
    return table


def _cells(figures: dict[str, Any]) -> tuple[str, ...]:
    word_errors = f"{figures['word_error_rate']:.1%}"
    if figures["endpoint_ms"] is None:
        return ("none", *[""] * 6, word_errors)
    counted = figures["all"]
    worded = counted["pauses"] - counted["wordless"]
    return (
        f"{figures['endpoint_ms']} ms",
        f"{counted['found']} of {worded} ({counted['found_share']:.1%})",
        str(counted["late"]),
        str(worded - counted["found"] - counted["late"]),
        str(counted["wordless"]),
        f"{counted['false']} of {counted['events']} ({counted['false_share']:.1%})",
        f"{figures['more_chunks']:+.1%}",
        word_errors,
    )
