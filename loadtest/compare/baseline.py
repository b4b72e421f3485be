"""``python -m loadtest baseline``: Earshot beside a traditional pipeline, same audio, same cores.

Both hear the same 16 kHz samples. Both figures of streams per core count CPU time, no deadline:
PocketSphinx decodes on one thread as fast as it can; the server's processes are read while more
streams than it can follow send chunk after chunk. What is carried in time is for the capacity run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtest.comparison import ALL_SETS, BaselineResult, Comparison
from loadtest.options import DEFAULT_REPOSITORY, Model, Repository, exiting_on


def main(
    repository: Repository = DEFAULT_REPOSITORY,
    url: Annotated[
        str | None,
        typer.Option(help="A running server instead; its CPU time cannot be seen from here."),
    ] = None,
    model: Model = None,
    recordings: Annotated[
        Path | None,
        typer.Option(
            help="Folder with manifest.tsv files (columns file, transcript). Default: the bundled."
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Only the set in the folder of this name; may be repeated."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Word error rate and streams per core, beside those of PocketSphinx."""
    result = _measure(recordings, sets, repository, url, model)
    if output:
        result.write(output)
    if as_json:
        print(result.to_json())
    else:
        Console().print(comparison_table(result.comparison))


def _measure(
    folder: Path | None,
    sets: list[str] | None,
    repository: Path,
    url: str | None,
    model: str | None,
) -> BaselineResult:
    import earshot

    from loadtest.pressing import StreamsFailed
    from loadtest.recordings import find_recordings
    from loadtest.server_process import ServerEnded
    from loadtest.side_by_side import measure
    from loadtest.speech import RECORDINGS
    from loadtest.sphinx import NotInstalled

    mistakes = (FileNotFoundError, ValueError, NotInstalled, ServerEnded, StreamsFailed)
    with exiting_on(*mistakes, earshot.EarshotError):
        return measure(find_recordings(folder or RECORDINGS, sets), repository, url, model)


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
