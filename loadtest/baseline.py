"""``python -m loadtest baseline``: Earshot beside a traditional pipeline, same audio, same cores.

Both hear the same 16 kHz samples. Both figures of streams per core count CPU time, no deadline:
PocketSphinx decodes on one thread as fast as it can; the server's processes are read while more
streams than it can follow send chunk after chunk. What is carried in time is for the capacity run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import earshot
import numpy as np
import psutil
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from loadtest.comparison import ALL_SETS, Comparison, Recognizer, SpeechSet
from loadtest.overhead import cpu_model, press
from loadtest.recordings import INT16_PEAK, Recording, find_recordings
from loadtest.server_process import ServerEnded, ServerProcess, serving
from loadtest.speech import RECORDINGS, SAMPLE_RATE_HZ, Samples
from loadtest.sphinx import Decoded, NotInstalled, decode
from loadtest.word_errors import word_counts, word_error_rates

SCHEMA = 1
PRESSING_STREAMS = 64
PRESSING_S = 20.0
SATURATED = (
    f"CPU time of all server processes per chunk, {PRESSING_STREAMS} streams sending without pause"
)
DECODED = "audio per CPU time of one thread, whole recordings, as fast as it goes"

_console = Console(stderr=True)


@dataclass(frozen=True)
class BaselineResult:
    """The document that the command writes."""

    schema: int
    kind: Literal["baseline"]
    comparison: Comparison
    cpu_model: str
    cpu_cores: int
    versions: dict[str, str]
    command: str
    started_at: str
    """ISO 8601, UTC."""

    @classmethod
    def from_json(cls, path: Path) -> BaselineResult:
        """Read the document at ``path``; raises OSError or ValueError."""
        try:
            return _DOCUMENT.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is not the result of a baseline run: {error}") from error

    def write(self, path: Path) -> None:
        """Write to ``path``, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(_DOCUMENT.dump_json(self, indent=2) + b"\n")
        os.replace(part, path)


_DOCUMENT = TypeAdapter(BaselineResult)


def main(
    repository: Annotated[Path, typer.Option(help="Exported models, served for the run.")] = Path(
        "model_repository"
    ),
    url: Annotated[
        str | None,
        typer.Option(help="A running server instead; its CPU time cannot be seen from here."),
    ] = None,
    recordings: Annotated[
        Path, typer.Option(help="Folder with manifest.tsv files (columns file, transcript).")
    ] = RECORDINGS,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Only the set in the folder of this name; may be repeated."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Word error rate and streams per core, beside those of PocketSphinx."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    try:
        result = _measure(find_recordings(recordings, sets), repository, url, started_at)
    except (FileNotFoundError, ValueError, NotInstalled, earshot.EarshotError) as error:
        _console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except ServerEnded as error:
        _console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    if output:
        result.write(output)
    if as_json:
        print(_DOCUMENT.dump_json(result, indent=2).decode())
    else:
        Console().print(comparison_table(result.comparison))


def compare_with_pocketsphinx(
    url: str,
    recordings: Sequence[Recording],
    streams_per_core: float | None,
    streams_per_core_is: str,
) -> Comparison:
    """Transcribe ``recordings`` with the idle server at ``url`` and with PocketSphinx.

    Args:
        streams_per_core: what is known of the server; ``None`` if nothing is.
        streams_per_core_is: how that was measured.

    Raises:
        NotInstalled: PocketSphinx is an extra.
        earshot.EarshotError: the server is not there, or a stream failed.
    """
    with _progress() as bar:
        task = bar.add_task("PocketSphinx", total=len(recordings))
        theirs = decode(recordings, lambda: bar.advance(task))
        task = bar.add_task("Earshot", total=len(recordings))
        name, heard = _transcribe(url, recordings, lambda: bar.advance(task))
    ours = Recognizer(
        name, word_error_rates(recordings, heard), streams_per_core, streams_per_core_is
    )
    return Comparison(_sets(recordings), [ours, _as_recognizer(theirs, recordings)])


def comparison_table(comparison: Comparison) -> Table:
    """One row per set, one column per recognizer."""
    table = Table(title="Word error rate, and streams per core")
    for title in ("recordings", "files", "audio"):
        table.add_column(title, justify="left" if title == "recordings" else "right")
    for recognizer in comparison.recognizers:
        table.add_column(recognizer.name.replace(", ", "\n").replace(": ", "\n"), justify="right")
    rates = [recognizer.word_error_rate for recognizer in comparison.recognizers]
    for each in comparison.sets:
        cells = (f"{rate[each.name]:.1%}" for rate in rates)
        table.add_row(each.name, str(each.recordings), f"{each.audio_s:.0f} s", *cells)
    table.add_section()
    table.add_row("all words", "", "", *(f"{rate[ALL_SETS]:.1%}" for rate in rates))
    per_core = [recognizer.streams_per_core for recognizer in comparison.recognizers]
    cells = ("-" if streams is None else f"{streams:.1f}" for streams in per_core)
    table.add_row("streams per core", "", "", *cells)
    return table


def _measure(
    recordings: list[Recording], repository: Path, url: str | None, started_at: str
) -> BaselineResult:
    if url is not None:
        comparison = compare_with_pocketsphinx(url, recordings, None, "the server was elsewhere")
    else:
        with serving(repository) as server:
            per_core = _saturated_streams_per_core(server, recordings)
            comparison = compare_with_pocketsphinx(server.url, recordings, per_core, SATURATED)
    packages = ("pocketsphinx", "onnxruntime", "jiwer", "whisper-normalizer")
    return BaselineResult(
        schema=SCHEMA,
        kind="baseline",
        comparison=comparison,
        cpu_model=cpu_model(),
        cpu_cores=psutil.cpu_count() or 1,
        versions={package: version(package) for package in packages},
        command=" ".join(["python -m loadtest", *sys.argv[1:]]),
        started_at=started_at,
    )


def _saturated_streams_per_core(server: ServerProcess, recordings: Sequence[Recording]) -> float:
    with _console.status(f"pressing the server for {PRESSING_S:.0f} s"):
        speech = _joined(recordings)
        pressed = asyncio.run(press(server, speech, PRESSING_STREAMS, PRESSING_S))
        return round(pressed.streams_per_core, 1)


def _joined(recordings: Sequence[Recording]) -> Samples:
    samples = np.concatenate([recording.read() for recording in recordings])
    return samples.astype(np.float32) / INT16_PEAK


def _transcribe(
    url: str, recordings: Sequence[Recording], advance: Callable[[], None]
) -> tuple[str, list[str]]:
    """What is served there, and what it hears."""
    heard: list[str] = []
    with earshot.connect(url) as client:
        for recording in recordings:
            with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                stream.send(recording.read())
                heard.append(stream.finish().text)
            advance()
        info = client.info
    serving_what = f"{info.runtime} {info.precision}, {info.chunk_ms} ms chunks"
    return f"Earshot: {info.model}, {serving_what}", heard


def _as_recognizer(decoded: Decoded, recordings: Sequence[Recording]) -> Recognizer:
    rates = word_error_rates(recordings, decoded.heard)
    return Recognizer(decoded.name, rates, round(decoded.streams_per_core, 2), DECODED)


def _sets(recordings: Sequence[Recording]) -> list[SpeechSet]:
    words = word_counts(recordings)
    sets: list[SpeechSet] = []
    for name in dict.fromkeys(recording.speech_set for recording in recordings):
        members = [recording for recording in recordings if recording.speech_set == name]
        audio_s = sum(len(member.read()) for member in members) / SAMPLE_RATE_HZ
        sets.append(SpeechSet(name, len(members), round(audio_s, 1), words[name]))
    return sets


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=_console, transient=True)
