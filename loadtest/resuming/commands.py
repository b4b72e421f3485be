"""`python -m loadtest resuming`: remove a server from under live streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest.options import (
    MIN_STREAM_S,
    RECORDINGS,
    Json,
    LoadOptions,
    Model,
    Output,
    Speech,
    exiting_on,
)

if TYPE_CHECKING:
    from loadtest.resuming.document import ResumingResult


def resuming(
    command: Annotated[
        list[str],
        typer.Argument(help="Program that removes a server, and its arguments, after `--`."),
    ],
    url: Annotated[
        str, typer.Option(help="Service, host:port, behind which there is more than one server.")
    ],
    streams: Annotated[int, typer.Option(min=1, help="Live streams at the time.")] = 40,
    stream_s: Annotated[
        float, typer.Option(min=1, help="Length of a stream; COMMAND runs in the middle of it.")
    ] = 2 * MIN_STREAM_S,
    model: Model = None,
    speech: Speech = RECORDINGS,
    output: Output = Path("build/resuming.json"),
    as_json: Json = False,
) -> None:
    """Remove a server from under live streams; show that they continue with all their words.

    Exit codes: 0 no stream failed, at most 1 % of the words differ and almost none is missing; 1
    otherwise, or if no stream has lost its server; 2 usage, no server, or COMMAND failed.
    """
    import earshot

    from loadtest.result.files import require_writable
    from loadtest.resuming.measure import CommandFailed, measure

    options = LoadOptions(url=url, model=model, speech=speech, min_stream_s=stream_s)
    with exiting_on(earshot.EarshotError, CommandFailed, OSError, ValueError):
        require_writable(output)
        result = measure(options, streams, command)
        result.write(output)
    print(output.read_text() if as_json else _sentence(result))
    if not result.passes:
        raise typer.Exit(1)


def _sentence(result: ResumingResult) -> str:
    why = f" ({'; '.join(result.reasons)})" if result.reasons else ""
    gap = "" if result.gap is None else f" after {result.gap.median_ms / 1000:.1f} s (median)"
    return (
        f"{'PASS' if result.passes else 'FAIL'}{why}: {result.streams} streams, carried on "
        f"{result.carried_on} times{gap}; of {result.words:,} words {result.changed_words} differ, "
        f"{result.missing_words} of them missing"
    )
