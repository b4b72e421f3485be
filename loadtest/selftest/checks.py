"""`python -m loadtest selftest`: check the load test against fake services.

The load test must find their capacity and latency within 5 %, call a run with a stalled load
generator invalid, and detect a server that swaps the texts of two streams.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from loadtest.capacity.search import SearchOptions, SearchResult, search
from loadtest.options import RECORDINGS, Json, LoadOptions

if TYPE_CHECKING:
    from loadtest.capacity.measure import Measurement
    from loadtest.result.document import Level
    from loadtest.selftest.fake_service import Truth

TOLERANCE = 0.05
ATTEMPTS = 3
"""Attempts of a measurement: on a busy machine the load generator may be late."""
SEARCH = SearchOptions(first_streams=32, long=False)
MAX_STREAMS = 48
OPTIONS = LoadOptions(hold_s=3.0, warm_up_s=1.5, min_stream_s=4.0)
STALLING_LOCUSTFILE = Path(__file__).with_name("stalling_locustfile.py")


@dataclass(frozen=True)
class Check:
    """One figure or fault that the load test must find."""

    what: str
    truth: str
    found: str
    passes: bool
    valid: bool = True
    """`False` if the load generator was late in every attempt, so that there is no result."""


def selftest(
    as_json: Json = False,
) -> None:
    """Check the load test against fake services with known capacity, latency and faults.

    Exit codes: 0 all checks pass, 1 a check fails, 3 the load generator was late in a check.
    """
    import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    import gevent

    jobs = [gevent.spawn(job) for job in (check_capacity_and_latency, check_stall, check_swap)]
    gevent.joinall(jobs, raise_error=True)
    checks: list[Check] = [check for job in jobs for check in job.get()]
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _print(checks)
    if any(check.valid and not check.passes for check in checks):
        raise typer.Exit(1)
    if not all(check.valid for check in checks):
        raise typer.Exit(3)


def check_capacity_and_latency() -> list[Check]:
    """Check that a search finds the capacity of a service, and a small level its latency."""
    from loadtest.selftest.fake_service import Truth

    truth = Truth(chunk_ms=320, service_ms=8.0, latency_ms=150.0)
    # Few scripts, because with this much latency the reference takes long to record.
    options = replace(OPTIONS, speech=RECORDINGS / "ljspeech")
    with _measuring(truth, options) as measurement:
        small = _hold_validly(measurement, streams=4)
        found = SearchResult()
        for _ in range(ATTEMPTS):
            found = search(measurement.hold, MAX_STREAMS, SEARCH)
            if found.verdict != "invalid":
                break
    return [
        _check("capacity", truth.capacity, found.streams, "streams", found.verdict != "invalid"),
        _check(
            "chunk latency", truth.idle_latency_ms, small.chunk_latency.p50_ms, "ms", small.valid
        ),
    ]


def check_stall() -> list[Check]:
    """Check that a load generator that stalls for 300 ms in every second makes a level invalid."""
    from loadtest.selftest.fake_service import Truth

    options = replace(OPTIONS, locustfile=STALLING_LOCUSTFILE)
    with _measuring(Truth(service_ms=1.0), options) as measurement:
        level = measurement.hold(8, True)
    found = "invalid" if not level.valid else "not noticed"
    return [Check("stalled generator", "invalid", found, not level.valid)]


def check_swap() -> list[Check]:
    """Check that a server that swaps the texts of two streams fails."""
    from loadtest.selftest.fake_service import Truth

    with _measuring(Truth(service_ms=1.0, swap=True), OPTIONS) as measurement:
        level = _hold_validly(measurement, streams=8)
    caught = level.valid and not level.passes and level.transcripts_different > 0
    found = f"{level.transcripts_different} of {level.transcripts_compared} transcripts different"
    return [Check("swapped text", "caught", found, caught, level.valid)]


def _hold_validly(measurement: Measurement, streams: int) -> Level:
    """Hold a level; repeat it if the load generator was late, up to three times in all."""
    level = measurement.hold(streams, True)
    for _ in range(ATTEMPTS - 1):
        if level.valid:
            break
        level = measurement.hold(streams, True)
    return level


@contextmanager
def _measuring(truth: Truth, options: LoadOptions) -> Generator[Measurement]:
    from loadtest.capacity.display import Display
    from loadtest.capacity.measure import measuring
    from loadtest.selftest.fake_service import fake_service

    with (
        fake_service(truth) as url,
        measuring(replace(options, url=url), Display()) as measurement,
    ):
        yield measurement


def _check(what: str, truth: float, found: float, unit: str, valid: bool) -> Check:
    passes = valid and abs(found - truth) <= TOLERANCE * truth
    return Check(what, f"{truth:.0f} {unit}", f"{found:.0f} {unit}", passes, valid)


def _print(checks: list[Check]) -> None:
    table = Table("check", "truth", "found", "", title="The load test against fake services")
    for check in checks:
        mark = "[green]yes[/green]" if check.passes else "[red]NO[/red]"
        mark = mark if check.valid else "the load generator was late"
        table.add_row(check.what, check.truth, check.found, mark)
    Console().print(table)
