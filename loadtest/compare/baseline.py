"""`python -m loadtest baseline`: compare Earshot with other recognizers on equal terms.

All recognizers get the same 16 kHz samples. Streams per core are computed from CPU time, without a
deadline: the others decode on one core as fast as possible; the CPU time of the server's processes
is read while streams saturate it. `loadtest capacity` finds the streams that are sustained in real
time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    LoadOptions,
    Model,
    RepositoryWithoutUrl,
    exiting_on,
)
from loadtest.result.baseline import ALL_SETS, BaselineResult, RecognizerComparison


def main(
    repository: RepositoryWithoutUrl = DEFAULT_REPOSITORY,
    url: Annotated[
        str | None,
        typer.Option(help="A running server to use instead; its CPU time stays unknown."),
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
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Compare word error rate and streams per core with those of PocketSphinx and Whisper."""
    options = LoadOptions(
        url=url or "", repository=None if url else repository, model=model, speech=recordings
    )
    result = _measure(options, sets)
    if output:
        result.write(output)
    if as_json:
        print(result.to_json())
    else:
        Console().print(comparison_table(result.comparison))


def _measure(options: LoadOptions, sets: list[str] | None) -> BaselineResult:
    import earshot

    from loadtest.audio.recordings import find_recordings
    from loadtest.compare.comparison import measure
    from loadtest.compare.decode import DecodingFailed
    from loadtest.compare.recognizers import NotInstalled
    from loadtest.compare.saturate import StreamsFailed
    from loadtest.service.server import ServerEnded

    missing = (FileNotFoundError, ValueError, NotInstalled)
    failed = (DecodingFailed, ServerEnded, StreamsFailed, earshot.EarshotError)
    with exiting_on(*missing, *failed):
        return measure(find_recordings(options.speech, sets), options)


def comparison_table(comparison: RecognizerComparison) -> Table:
    """Return a table with a row for each set and a column for each recognizer."""
    table = Table(title="Word error rate, and streams per core")
    for title in ("recordings", "files", "audio"):
        justify = "left" if title == "recordings" else "right"
        table.add_column(title, justify=justify, overflow="fold")
    for recognizer in comparison.recognizers:
        name = recognizer.name.replace(", ", "\n").replace(": ", "\n")
        table.add_column(name, justify="right", overflow="fold")
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
