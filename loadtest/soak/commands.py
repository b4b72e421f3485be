"""`python -m loadtest soak`: hold a level for a long time, and report leaks of the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    LoadOptions,
    MetricsUrl,
    Model,
    Output,
    RepositoryWithoutUrl,
    Speech,
    Url,
    console,
    exiting_on,
)

if TYPE_CHECKING:
    from loadtest.soak.document import SoakResult


def soak(
    streams: Annotated[int, typer.Option(min=1, help="Live streams to hold.")] = 32,
    url: Url = None,
    repository: RepositoryWithoutUrl = DEFAULT_REPOSITORY,
    metrics_url: MetricsUrl = None,
    model: Model = None,
    hold_s: Annotated[float, typer.Option(min=5, help="Length of the soak, in seconds.")] = 3600.0,
    every_s: Annotated[
        float, typer.Option(min=1, help="Time between readings of the server, in seconds.")
    ] = 10.0,
    speech: Speech = RECORDINGS,
    output: Output = Path("build/soak.json"),
    as_json: Json = False,
) -> None:
    """Hold live streams that begin, end, pause, stall and vanish; show that nothing leaks.

    Exit codes: 0 the server leaks nothing and no text has changed, 1 otherwise, 2 usage or no
    server.
    """
    import earshot

    from loadtest.capacity.commands import with_server
    from loadtest.result.files import require_writable
    from loadtest.service.server import ServerEnded
    from loadtest.soak.measure import Unsuitable, measure
    from loadtest.soak.page import render

    options = with_server(
        LoadOptions(model=model, speech=speech, hold_s=hold_s), url, repository, metrics_url
    )
    with exiting_on(earshot.EarshotError, ServerEnded, Unsuitable, OSError, ValueError):
        require_writable(output)
        result = measure(options, streams, every_s, console.print)
        result.write(output)
        page = output.with_suffix(".html")
        page.write_text(render(result), encoding="utf-8")
    print(output.read_text() if as_json else _sentence(result, page))
    if not result.passes:
        raise typer.Exit(1)


def _sentence(result: SoakResult, page: Path) -> str:
    why = f" ({'; '.join(result.reasons)})" if result.reasons else ""
    verdict = "PASS" if result.passes else "FAIL"
    return f"{verdict}: {result.live_streams} streams for {result.hold_s:.0f} s{why}; {page}"
