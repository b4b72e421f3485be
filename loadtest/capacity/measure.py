"""One server under load: everything that a level needs, put together once per run."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import earshot
import psutil
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn

from loadtest.conditions import conditions, is_local
from loadtest.crowd import LOCUSTFILE, Crowd, crowd
from loadtest.judge import judge, latency_of, rule_for
from loadtest.metrics import ServerWatch
from loadtest.result import SCHEMA, CapacityResult, Conditions, Level
from loadtest.samples import Gathering
from loadtest.search import Found
from loadtest.server_process import processes_behind
from loadtest.speech import RECORDINGS, SAMPLE_RATE_HZ, TALK_S, load_recordings, write_scripts
from loadtest.transcripts import Comparer, hear_quietly

WARM_UP_S = 3.0


class Unsuitable(Exception):
    """The server cannot be measured like this."""


@dataclass(frozen=True)
class Setup:
    """What to measure, and with what."""

    url: str
    metrics_url: str | None = None
    repository: Path | None = None
    """What the server serves, where that is known."""
    model: str | None = None
    """Which recognizer of the server; see `earshot.connect`."""
    processes: int = 1
    remote_workers: int = 0
    master_port: int | None = None
    speech: Path = RECORDINGS
    p99_ms: float | None = None
    warm_up_s: float = WARM_UP_S
    talk_s: float = TALK_S
    locustfile: Path = LOCUSTFILE


class Measurement:
    """Holds levels against one server; make one with `measuring`."""

    def __init__(
        self,
        setup: Setup,
        info: earshot.ServerInfo,
        comparer: Comparer,
        crowd: Crowd,
        watch: ServerWatch,
        conditions: Conditions,
        console: Console,
        report: Callable[[Level], None],
    ) -> None:
        self.info = info
        self.conditions = conditions
        self._setup = setup
        self._comparer = comparer
        self._crowd = crowd
        self._watch = watch
        self._console = console
        self._report = report

    def hold(self, streams: int, hold_s: float, final: bool) -> Level:
        """Hold ``streams`` live streams for ``hold_s`` seconds, and judge them."""
        rule = rule_for(self.info.chunk_ms, hold_s, self._setup.p99_ms)
        with _live(self._console) as bar:
            line = bar.add_task("")

            def progress(at_s: float, gathering: Gathering) -> None:
                bar.update(line, description=_progress_line(streams, at_s, hold_s, gathering))

            samples, use = self._crowd.hold(
                streams, self._setup.warm_up_s, hold_s, self._watch, progress
            )
        level = judge(samples, streams, rule, final, self._comparer.compare(samples.spoken), use)
        self._report(level)
        return level

    def pin_speakers(self, core: int) -> None:
        """Keep the processes that speak, all their threads, on one core."""
        self._crowd.pin(core)

    def result(self, found: Found, kind: str, hold_s: float, limit: str) -> CapacityResult:
        """The document of a run."""
        gpus, cores = self.conditions.gpu_count, self.conditions.cpu_cores
        return CapacityResult(
            schema=SCHEMA,
            kind="capacity" if kind == "capacity" else "level",
            verdict=found.verdict,
            streams=found.streams,
            streams_per_gpu=found.streams / gpus if gpus else None,
            streams_per_core=found.streams / cores if cores and not gpus else None,
            limit=limit,
            rule=rule_for(self.info.chunk_ms, hold_s, self._setup.p99_ms),
            levels=found.levels,
            conditions=self.conditions,
        )


@contextmanager
def measuring(
    setup: Setup, console: Console, report: Callable[[Level], None]
) -> Generator[Measurement]:
    """Connect to the server, hear the speech once quietly, and call the speakers together.

    Args:
        console: shows progress, if it is a terminal.
        report: is told each level when it has been held.

    Raises:
        EarshotError: the server cannot be reached.
        CrowdFailed: the processes that speak did not start.
        Unsuitable: it wants speech of another sampling rate, or nobody is to speak.
        FileNotFoundError: there is no speech.
        ValueError: the server hears no word in it.
    """
    count = setup.processes + setup.remote_workers
    if not count:
        raise Unsuitable("expected at least one process that speaks, --processes or --workers")
    if setup.remote_workers and setup.master_port is None:
        raise Unsuitable("expected --master-port, where the --workers of other machines report")
    recordings = load_recordings(setup.speech)
    scripts = write_scripts(recordings, setup.talk_s)
    with earshot.connect(setup.url, model=setup.model) as client, _live(console) as bar:
        info = client.info
        if info.sample_rate_hz != SAMPLE_RATE_HZ:
            raise Unsuitable(
                f"expected a server of {SAMPLE_RATE_HZ} Hz, this one has {info.sample_rate_hz} Hz"
            )
        line = bar.add_task("hearing the speech once, quietly", total=len(scripts))
        quiet = hear_quietly(client, scripts, lambda done: bar.update(line, completed=done))
    watch = ServerWatch(setup.metrics_url, _processes(info.url), info.ensemble)
    if setup.metrics_url and not watch.has_metrics:
        console.print(
            f"no metrics at {setup.metrics_url}: batches, queues and GPUs of the server stay "
            "unknown (--metrics-url)"
        )
    with crowd(
        setup.url,
        setup.speech,
        setup.talk_s,
        setup.processes,
        setup.remote_workers,
        setup.master_port,
        setup.locustfile,
        # Not as it was asked for: what is the newest may change while levels are held.
        info.name or None,
    ) as speakers:
        yield Measurement(
            setup,
            info,
            Comparer(scripts, quiet, info.precision),
            speakers,
            watch,
            conditions(info, setup.repository, setup.speech, recordings, watch.gpus, count),
            console,
            report,
        )


def _processes(url: str) -> list[psutil.Process]:
    return processes_behind(int(url.rpartition(":")[2])) if is_local(url) else []


def _live(console: Console) -> Bar:
    return Bar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _progress_line(streams: int, at_s: float, hold_s: float, gathering: Gathering) -> str:
    latency = latency_of(gathering.take_recent().latency_ms)
    at = f"{at_s:3.0f}/{hold_s:.0f} s" if at_s >= 0 else "warming up"
    return (
        f"{streams:5d} streams  {at}  text p50 {latency.p50_ms:.0f}  p99 {latency.p99_ms:.0f} ms"
        f"  failures {gathering.failures()}"
    )
