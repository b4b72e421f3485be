"""`python -m loadtest overload`: offer more live streams than the server can serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    LoadOptions,
    Model,
    Output,
    P99Ms,
    RepositoryWithoutUrl,
    Speech,
    Url,
    exiting_on,
)

if TYPE_CHECKING:
    from loadtest.overload.document import OverloadResult


def overload(
    users: Annotated[
        int,
        typer.Option(min=1, help="Users who want a live stream: for example, twice the capacity."),
    ] = 256,
    url: Url = None,
    repository: RepositoryWithoutUrl = DEFAULT_REPOSITORY,
    chunk_share: Annotated[
        float,
        typer.Option(min=0.05, help="--chunk-share of the server, if it is started here."),
    ] = 0.15,
    model: Model = None,
    arrival_s: Annotated[
        float, typer.Option(min=0, help="Seconds within which they arrive, one by one.")
    ] = 20.0,
    hold_s: Annotated[float, typer.Option(min=5, help="Seconds to measure after that.")] = 60.0,
    p99_ms: P99Ms = None,
    speech: Speech = RECORDINGS,
    output: Output = Path("build/overload.json"),
    as_json: Json = False,
) -> None:
    """Offer more live streams than fit; show that the admitted ones stay in real time.

    Refused users come back after about 5 s. Exit codes: 0 the admitted streams stay in real time
    and the others are refused within 100 ms (both p99), 1 otherwise, 2 usage or no server.
    """
    import earshot

    from loadtest.overload.measure import measure
    from loadtest.result.files import require_writable
    from loadtest.service.server import ServerEnded

    options = LoadOptions(
        model=model, speech=speech, hold_s=hold_s, p99_ms=p99_ms, chunk_share=chunk_share
    )
    place = {"url": url} if url else {"repository": repository}
    with exiting_on(earshot.EarshotError, ServerEnded, OSError, ValueError):
        require_writable(output)
        result = measure(replace(options, **place), users, arrival_s)
        result.write(output)
    print(output.read_text() if as_json else _sentence(result))
    if not result.passes:
        raise typer.Exit(1)


def _sentence(result: OverloadResult) -> str:
    why = f" ({'; '.join(result.reasons)})" if result.reasons else ""
    chunks, refusals = result.chunk_latency, result.refusal_latency
    return (
        f"{'PASS' if result.passes else 'FAIL'}{why}: of {result.users} users, "
        f"{result.live_mean:.0f} were served at a time, p50 {chunks.p50_ms:.0f} ms, "
        f"p99 {chunks.p99_ms:.0f} ms; {refusals.count} refusals, p50 {refusals.p50_ms:.0f} ms, "
        f"p99 {refusals.p99_ms:.0f} ms"
    )
