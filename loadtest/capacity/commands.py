"""``python -m loadtest capacity`` and ``hold``: how many live streams a server carries.

Both print levels as they go on stderr, a sentence at the end on stdout, and write one JSON document
(`loadtest/result.py`). What needs gevent is imported inside: other commands live without it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loadtest.options import DEFAULT_REPOSITORY, Model, console, exiting_on
from loadtest.search import FIRST_STREAMS, RESOLUTION

if TYPE_CHECKING:
    from loadtest.measure import Measurement
    from loadtest.result import CapacityResult
    from loadtest.search import Found

SHORT_HOLD_S = 10.0
EXIT_CODES = "Exit codes: 0 pass, 1 fail, 2 usage or no server, 3 invalid (the generator was late)."

_Url = Annotated[
    str | None, typer.Option(help="Server, host:port. Default: start one on REPOSITORY.")
]
_Repository = Annotated[Path, typer.Option(help="Exported models, if there is no --url.")]
_MetricsUrl = Annotated[
    str | None, typer.Option(help="Triton's metrics. Default: port 8002 of the server's host.")
]
_HoldS = Annotated[float, typer.Option(min=1, help="Length of the hold that counts, in seconds.")]
_P99Ms = Annotated[
    float | None, typer.Option(min=1, help="Allowed p99 chunk latency. Default: one chunk.")
]
_Processes = Annotated[int, typer.Option(min=0, help="Processes that speak, on this machine.")]
_Workers = Annotated[
    int, typer.Option(min=0, help="More, on other machines: wait for so many Locust workers.")
]
_MasterPort = Annotated[int | None, typer.Option(help="Port where those workers report.")]
_Speech = Annotated[Path | None, typer.Option(help="Folder with other recordings to speak.")]
_Output = Annotated[Path, typer.Option(help="Where the result goes.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def capacity(
    url: _Url = None,
    repository: _Repository = DEFAULT_REPOSITORY,
    metrics_url: _MetricsUrl = None,
    model: Model = None,
    max_streams: Annotated[
        int | None, typer.Option(min=1, help="Try no more. Default: what the server takes.")
    ] = None,
    first_streams: Annotated[
        int, typer.Option(min=1, help="Where to begin: twice or half as many are tried next.")
    ] = FIRST_STREAMS,
    resolution: Annotated[
        float, typer.Option(min=0.01, max=1, help="How close to the answer the search ends.")
    ] = RESOLUTION,
    hold_s: _HoldS = 60.0,
    p99_ms: _P99Ms = None,
    processes: _Processes = 1,
    workers: _Workers = 0,
    master_port: _MasterPort = None,
    speech: _Speech = None,
    baseline: Annotated[
        Literal["pocketsphinx"] | None,
        typer.Option(help="A traditional recognizer to put beside it, on the same recordings."),
    ] = None,
    output: _Output = Path("build/capacity.json"),
    as_json: _Json = False,
) -> None:
    """Find the largest count of live streams that the server carries, and hold it."""
    if baseline:
        _require_baseline(speech)
    with _measurement(
        url, repository, metrics_url, model, p99_ms, processes, workers, master_port, speech
    ) as measurement:
        from loadtest.search import search

        limit = min(max_streams or sys.maxsize, measurement.info.max_streams)
        found = search(
            lambda streams, final: measurement.hold(
                streams, hold_s if final else min(SHORT_HOLD_S, hold_s), final
            ),
            limit,
            first_streams,
            resolution,
        )
        result = measurement.result(found, "capacity", hold_s, _limit(found, limit))
        if baseline:
            from loadtest.side_by_side import with_baseline
            from loadtest.speech import RECORDINGS

            info = measurement.info
            result = with_baseline(result, url or info.url, speech or RECORDINGS, info.name or None)
    _finish(result, output, as_json)


def hold(
    streams: Annotated[int, typer.Option(min=1, help="Live streams to hold.")],
    url: _Url = None,
    repository: _Repository = DEFAULT_REPOSITORY,
    metrics_url: _MetricsUrl = None,
    model: Model = None,
    hold_s: _HoldS = 60.0,
    p99_ms: _P99Ms = None,
    processes: _Processes = 1,
    workers: _Workers = 0,
    master_port: _MasterPort = None,
    speech: _Speech = None,
    output: _Output = Path("build/level.json"),
    as_json: _Json = False,
) -> None:
    """Hold one count of live streams; the exit code says whether the server carries it."""
    with _measurement(
        url, repository, metrics_url, model, p99_ms, processes, workers, master_port, speech
    ) as measurement:
        from loadtest.report_line import verdict_of
        from loadtest.search import Found

        level = measurement.hold(streams, hold_s, True)
        passes = verdict_of(level) == "pass"
        found = Found(streams if passes else 0, None if passes else level, [level])
        limit = "; ".join(level.reasons) or f"not more than {streams} streams were tried"
        result = measurement.result(found, "level", hold_s, limit)
    _finish(result, output, as_json)


def _require_baseline(speech: Path | None) -> None:
    """What the baseline lacks is said before the search, not after it."""
    import loadtest.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    from loadtest.recordings import find_recordings
    from loadtest.speech import RECORDINGS
    from loadtest.sphinx import NotInstalled, require_installed

    with exiting_on(NotInstalled, OSError, ValueError):
        require_installed()
        find_recordings(speech or RECORDINGS)


capacity.__doc__ = f"{capacity.__doc__}\n\n{EXIT_CODES}"
hold.__doc__ = f"{hold.__doc__}\n\n{EXIT_CODES}"


@contextmanager
def _measurement(
    url: str | None,
    repository: Path,
    metrics_url: str | None,
    model: str | None,
    p99_ms: float | None,
    processes: int,
    workers: int,
    master_port: int | None,
    speech: Path | None,
) -> Generator[Measurement]:
    import loadtest.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    import earshot

    from loadtest.crowd import CrowdFailed
    from loadtest.measure import Setup, Unsuitable, measuring
    from loadtest.report_line import show
    from loadtest.server_process import ServerEnded, serving
    from loadtest.speech import RECORDINGS

    def setup(url: str, metrics_url: str, repository: Path | None) -> Setup:
        return Setup(
            url,
            metrics_url,
            repository,
            model=model,
            processes=processes,
            remote_workers=workers,
            master_port=master_port,
            speech=speech or RECORDINGS,
            p99_ms=p99_ms,
        )

    mistakes = (earshot.EarshotError, CrowdFailed, ServerEnded, Unsuitable, OSError, ValueError)
    with exiting_on(*mistakes), ExitStack() as stack:
        if url is None:
            server = stack.enter_context(serving(repository))
            chosen = setup(server.url, server.metrics_url, repository)
        else:
            chosen = setup(url, metrics_url or _metrics_of(url), None)
        yield stack.enter_context(measuring(chosen, console, show))


def _metrics_of(url: str) -> str:
    address = url.rpartition("://")[2]
    host = address.rpartition(":")[0] or address
    return f"http://{host}:8002/metrics"


def _limit(found: Found, limit: int) -> str:
    if found.wall is None:
        return f"not more than {limit} streams were tried"
    return f"at {found.wall.streams} streams: {'; '.join(found.wall.reasons)}"


def _finish(result: CapacityResult, output: Path, as_json: bool) -> None:
    from loadtest.report_line import exit_code

    result.write(output)
    print(output.read_text() if as_json else _sentence(result, output))
    raise typer.Exit(exit_code(result.verdict))


def _sentence(result: CapacityResult, output: Path) -> str:
    if result.verdict == "invalid":
        answer = f"INVALID: {result.streams} live streams pass, and the generator was the limit"
    elif result.streams:
        answer = f"{result.streams} live streams{_per(result)}"
    else:
        answer = "FAIL: not carried"
    return f"{answer}, held for {result.rule.hold_s:.0f} s ({result.limit}); {output}"


def _per(result: CapacityResult) -> str:
    if result.streams_per_gpu is not None:
        return f", {result.streams_per_gpu:.0f} per GPU"
    if result.streams_per_core is not None:
        return f", {result.streams_per_core:.0f} per core"
    return ""
