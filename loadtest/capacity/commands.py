"""`python -m loadtest capacity` and `hold`: the number of live streams that a server sustains.

Both print levels on stderr as they go, a sentence at the end on stdout, and write one JSON document
(`loadtest/result/document.py`). Modules that need gevent are imported inside the functions, because
other commands run without it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest.capacity.search import Budget, Hold, SearchOptions, SearchResult, search
from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    AllowedChange,
    HoldS,
    Json,
    LoadOptions,
    MasterPort,
    MetricsUrl,
    Model,
    OtherRecognizer,
    Output,
    P99Ms,
    Processes,
    RepositoryWithoutUrl,
    Speech,
    Url,
    Workers,
    exiting_on,
)
from loadtest.result.document import UNFINISHED, CapacityResult, exit_code
from loadtest.result.files import require_writable

if TYPE_CHECKING:
    from loadtest.capacity.measure import Measurement
    from loadtest.result.document import Level

SPAWN_S = 12.0
"""Time around a hold, for spawning live users, ending streams and collecting samples."""
EXIT_CODES = (
    "Exit codes: 0 pass, 1 fail, 2 usage or no server, 3 invalid (the load generator was late, or "
    "the search did not end)."
)


def capacity(
    url: Url = None,
    repository: RepositoryWithoutUrl = DEFAULT_REPOSITORY,
    metrics_url: MetricsUrl = None,
    model: Model = None,
    max_streams: Annotated[
        int | None,
        typer.Option(min=1, help="Most streams to try. Default: as many as the server has slots."),
    ] = None,
    first_streams: Annotated[
        int, typer.Option(min=1, help="Live streams of the first level.")
    ] = SearchOptions.first_streams,
    resolution: Annotated[
        float, typer.Option(min=0.01, max=1, help="Relative gap at which the search ends.")
    ] = SearchOptions.resolution,
    growth: Annotated[
        float, typer.Option(min=1.05, max=4, help="Factor between levels until one fails.")
    ] = SearchOptions.growth,
    short_hold_s: Annotated[
        float, typer.Option(min=1, help="Length of the other holds, in seconds.")
    ] = LoadOptions.short_hold_s,
    hold_s: HoldS = LoadOptions.hold_s,
    budget_s: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Seconds for the whole command. When only the final hold still fits, the search "
            "continues with it. Default: no limit.",
        ),
    ] = None,
    p99_ms: P99Ms = None,
    allowed_change: AllowedChange = None,
    processes: Processes = LoadOptions.processes,
    workers: Workers = LoadOptions.workers,
    master_port: MasterPort = None,
    speech: Speech = RECORDINGS,
    baseline: Annotated[
        list[OtherRecognizer] | None,
        typer.Option(help="A recognizer to compare with, on the same recordings; may be repeated."),
    ] = None,
    output: Output = Path("build/capacity.json"),
    as_json: Json = False,
) -> None:
    """Find the largest number of live streams that the server sustains, and hold it."""
    options = LoadOptions(
        model=model,
        speech=speech,
        processes=processes,
        workers=workers,
        master_port=master_port,
        hold_s=hold_s,
        short_hold_s=short_hold_s,
        p99_ms=p99_ms,
        allowed_change=allowed_change,
    )
    with exiting_on(OSError):
        require_writable(output)
    budget = _budget(options, budget_s)
    if baseline:
        _require_baseline(options, baseline)
    with _measuring(with_server(options, url, repository, metrics_url)) as measurement:
        most = min(max_streams or sys.maxsize, measurement.info.max_streams)
        hold = _saving(measurement, output)
        found = search(hold, most, SearchOptions(first_streams, growth, resolution), budget)
        result = measurement.result(found, "capacity", _limit(found, most))
        # Written before the server ends, which takes seconds that the command may not have.
        result.write(output)
        if baseline:
            from loadtest.compare.comparison import with_baseline

            result = with_baseline(result, measurement.options, baseline)
            result.write(output)
    _finish(result, output, as_json)


def hold(
    streams: Annotated[int, typer.Option(min=1, help="Live streams to hold.")],
    url: Url = None,
    repository: RepositoryWithoutUrl = DEFAULT_REPOSITORY,
    metrics_url: MetricsUrl = None,
    model: Model = None,
    hold_s: HoldS = LoadOptions.hold_s,
    p99_ms: P99Ms = None,
    allowed_change: AllowedChange = None,
    processes: Processes = LoadOptions.processes,
    workers: Workers = LoadOptions.workers,
    master_port: MasterPort = None,
    speech: Speech = RECORDINGS,
    output: Output = Path("build/level.json"),
    as_json: Json = False,
) -> None:
    """Hold a number of live streams; the exit code shows whether the server sustains them."""
    options = LoadOptions(
        model=model,
        speech=speech,
        processes=processes,
        workers=workers,
        master_port=master_port,
        hold_s=hold_s,
        p99_ms=p99_ms,
        allowed_change=allowed_change,
    )
    with exiting_on(OSError):
        require_writable(output)
    with _measuring(with_server(options, url, repository, metrics_url)) as measurement:
        level = measurement.hold(streams, True)
        passes = level.verdict == "pass"
        found = SearchResult(streams if passes else 0, None if passes else level, [level])
        limit = "; ".join(level.reasons) or f"not more than {streams} streams were tried"
        result = measurement.result(found, "level", limit)
        result.write(output)
    _finish(result, output, as_json)


capacity.__doc__ = f"{capacity.__doc__}\n\n{EXIT_CODES}"
hold.__doc__ = f"{hold.__doc__}\n\n{EXIT_CODES}"


def _budget(options: LoadOptions, budget_s: float | None) -> Budget:
    """Return the time budget of the search, starting now."""
    if budget_s is None:
        return Budget()
    around_s = options.warm_up_s + SPAWN_S
    return Budget(
        time.monotonic() + budget_s,
        level_s=min(options.short_hold_s, options.hold_s) + around_s,
        final_s=options.hold_s + around_s,
    )


def _saving(measurement: Measurement, output: Path) -> Hold:
    """Return `measurement.hold`, which also saves the levels so far, in case the run is ended."""
    levels: list[Level] = []

    def hold(streams: int, final: bool) -> Level:
        levels.append(measurement.hold(streams, final))
        measurement.unfinished(levels).write(output)
        return levels[-1]

    return hold


def with_server(
    options: LoadOptions, url: str | None, repository: Path, metrics_url: str | None
) -> LoadOptions:
    """Return options for the server at `url`, or for one to be started on `repository`."""
    if url is None:
        return replace(options, repository=repository)
    return replace(options, url=url, metrics_url=metrics_url or _metrics_of(url))


def _metrics_of(url: str) -> str:
    address = url.rpartition("://")[2]
    host = address.rpartition(":")[0] or address
    return f"http://{host}:8002/metrics"


def _require_baseline(options: LoadOptions, others: list[OtherRecognizer]) -> None:
    """End the command before the search if the baseline cannot run."""
    import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    from loadtest.audio.recordings import find_recordings
    from loadtest.compare.recognizers import NotInstalled, require_installed

    with exiting_on(NotInstalled, OSError, ValueError):
        require_installed(others)
        find_recordings(options.speech)


@contextmanager
def _measuring(options: LoadOptions) -> Generator[Measurement]:
    import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    import earshot

    from loadtest.capacity.display import Display
    from loadtest.capacity.measure import Unsuitable, measuring
    from loadtest.capacity.runner import LoadRunnerFailed
    from loadtest.compare.decode import DecodingFailed
    from loadtest.service.server import ServerEnded

    failed = (DecodingFailed, LoadRunnerFailed, ServerEnded)
    mistakes = (earshot.EarshotError, Unsuitable, *failed)
    with (
        exiting_on(*mistakes, OSError, ValueError),
        measuring(options, Display()) as measurement,
    ):
        yield measurement


def _limit(found: SearchResult, most: int) -> str:
    if not found.ended:
        return f"{UNFINISHED} within its time (--budget-s)"
    if found.limit is None:
        most = max((level.streams for level in found.levels), default=most)
        limit = f"not more than {most} streams were tried"
    else:
        limit = f"at {found.limit.streams} streams: {'; '.join(found.limit.reasons)}"
    return f"{limit}; no level between was tried for lack of time" if found.coarse else limit


def _finish(result: CapacityResult, output: Path, as_json: bool) -> None:
    print(output.read_text() if as_json else _sentence(result, output))
    raise typer.Exit(exit_code(result.verdict))


def _sentence(result: CapacityResult, output: Path) -> str:
    if result.unfinished:
        passed = [each.hold_s for each in result.levels if each.streams == result.streams]
        return (
            f"INVALID: the search did not end; {result.streams} live streams passed for "
            f"{max(passed, default=0):.0f} s ({result.limit}); {output}"
        )
    if result.verdict == "invalid":
        answer = f"INVALID: {result.streams} live streams pass, the load generator was the limit"
    elif result.streams:
        answer = f"{result.streams} live streams{_per_unit(result)}"
    else:
        answer = "FAIL: not sustained"
    return f"{answer}, held for {result.rule.hold_s:.0f} s ({result.limit}); {output}"


def _per_unit(result: CapacityResult) -> str:
    if result.streams_per_gpu is not None:
        return f", {result.streams_per_gpu:.0f} per GPU"
    if result.streams_per_core is not None:
        return f", {result.streams_per_core:.0f} per core"
    return ""
