"""``python -m loadtest selftest``: the harness held against services whose truth is known.

It has to find their capacity and their latency within 5 %, to call a run with a stalled generator
invalid, and to catch a server that gives two streams each other's text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from loadtest.fake_service import Truth
    from loadtest.measure import Measurement
    from loadtest.result import Level

TOLERANCE = 0.05
ATTEMPTS = 3
"""A machine that is busy with other things makes the generator late; then it is asked again."""
RESOLUTION = 0.05
HOLD_S = 3.0
WARM_UP_S = 1.5
TALK_S = 4.0
_console = Console(stderr=True)


@dataclass(frozen=True)
class Check:
    """One thing that the harness must find."""

    what: str
    truth: str
    found: str
    passes: bool


def selftest(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Hold the harness against fake services of known capacity, latency and faults.

    Exit codes: 0 it found the truth, 1 it did not.
    """
    import loadtest.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore
    import gevent

    jobs = [gevent.spawn(job) for job in (check_capacity_and_latency, check_stall, check_swap)]
    gevent.joinall(jobs, raise_error=True)
    checks: list[Check] = [check for job in jobs for check in job.get()]
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _print(checks)
    if not all(check.passes for check in checks):
        raise typer.Exit(1)


def check_capacity_and_latency() -> list[Check]:
    """The search finds how many streams a service carries, and a quiet level how fast it is."""
    from loadtest.fake_service import Truth
    from loadtest.search import Found, search
    from loadtest.speech import RECORDINGS

    truth = Truth(chunk_ms=320, service_ms=8.0, latency_ms=150.0)
    # Few scripts: a service with so much latency takes long to be heard quietly.
    with _measurement(truth, speech=RECORDINGS / "ljspeech") as measurement:
        alone = _on_time(measurement, streams=4)
        found = Found()
        for _ in range(ATTEMPTS):
            found = search(
                lambda streams, final: measurement.hold(streams, HOLD_S, final),
                limit=48,
                first=32,
                resolution=RESOLUTION,
                long=False,
            )
            if found.verdict != "invalid":
                break
    return [
        _check("capacity", truth.capacity, found.streams, "streams"),
        _check("chunk latency", truth.quiet_latency_ms, alone.chunk_latency.p50_ms, "ms"),
    ]


def check_stall() -> list[Check]:
    """A generator that stands still for 300 ms in every second makes the level invalid."""
    from loadtest.crowd import LOCUSTFILE
    from loadtest.fake_service import Truth

    stalling = LOCUSTFILE.with_name("stalling_locustfile.py")
    with _measurement(Truth(service_ms=1.0), locustfile=stalling) as measurement:
        level = measurement.hold(8, HOLD_S, True)
    found = "invalid" if not level.valid else "not noticed"
    return [Check("stalled generator", "invalid", found, not level.valid)]


def check_swap() -> list[Check]:
    """A server that gives two streams each other's text fails."""
    from loadtest.fake_service import Truth

    with _measurement(Truth(service_ms=1.0, swap=True)) as measurement:
        level = _on_time(measurement, streams=8)
    caught = level.valid and not level.passes and level.transcripts_different > 0
    found = f"{level.transcripts_different} of {level.transcripts_compared} transcripts different"
    return [Check("swapped text", "caught", found, caught)]


def _on_time(measurement: Measurement, streams: int) -> Level:
    """One level; a few times if need be, until the generator was on time."""
    level = measurement.hold(streams, HOLD_S, True)
    for _ in range(ATTEMPTS - 1):
        if level.valid:
            break
        level = measurement.hold(streams, HOLD_S, True)
    return level


@contextmanager
def _measurement(
    truth: Truth, speech: Path | None = None, locustfile: Path | None = None
) -> Generator[Measurement]:
    from loadtest.crowd import LOCUSTFILE
    from loadtest.fake_service import fake_service
    from loadtest.measure import Setup, measuring
    from loadtest.report_line import show
    from loadtest.speech import RECORDINGS

    with fake_service(truth) as url:
        setup = Setup(
            url,
            speech=speech or RECORDINGS,
            talk_s=TALK_S,
            warm_up_s=WARM_UP_S,
            locustfile=locustfile or LOCUSTFILE,
        )
        with measuring(setup, _console, show) as measurement:
            yield measurement


def _check(what: str, truth: float, found: float, unit: str) -> Check:
    passes = abs(found - truth) <= TOLERANCE * truth
    return Check(what, f"{truth:.0f} {unit}", f"{found:.0f} {unit}", passes)


def _print(checks: list[Check]) -> None:
    table = Table("check", "truth", "found", "", title="The harness against known services")
    for check in checks:
        mark = "[green]yes[/green]" if check.passes else "[red]NO[/red]"
        table.add_row(check.what, check.truth, check.found, mark)
    Console(file=sys.stdout).print(table)
