"""Measure one server: everything that levels need is set up once per run."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import earshot
import psutil

from loadtest.audio.recordings import SAMPLE_RATE_HZ, load_clips
from loadtest.audio.scripts import Script, write_scripts
from loadtest.capacity.conditions import conditions, is_local
from loadtest.capacity.display import Display, progress_line
from loadtest.capacity.runner import LoadRunner, load_runner
from loadtest.capacity.search import SearchResult
from loadtest.live.check import check_level, rule_for
from loadtest.live.samples import SampleCollector
from loadtest.live.transcripts import TranscriptComparer, allowed_change, record_reference
from loadtest.options import LoadOptions
from loadtest.result.document import SCHEMA, UNFINISHED, CapacityResult, Conditions, Level
from loadtest.service.connection import connect
from loadtest.service.metrics import processes_behind
from loadtest.service.monitor import ServerMonitor
from loadtest.service.server import ensure_server


class Unsuitable(Exception):
    """The server cannot be measured with these options."""


@dataclass(frozen=True)
class MeasuredServer:
    """The server under test, as known before the load."""

    info: earshot.ServerInfo
    comparer: TranscriptComparer
    monitor: ServerMonitor
    conditions: Conditions


class Measurement:
    """Holds levels against one server; made by `measuring`."""

    def __init__(
        self, options: LoadOptions, server: MeasuredServer, runner: LoadRunner, display: Display
    ) -> None:
        self.options = options
        self.info = server.info
        self.conditions = server.conditions
        self._server = server
        self._runner = runner
        self._display = display

    def hold(self, streams: int, final: bool) -> Level:
        """Hold `streams` live streams, for longer if `final`, and check them."""
        options = self.options
        hold_s = options.hold_s if final else min(options.short_hold_s, options.hold_s)
        rule = rule_for(self.info, hold_s, options)
        with self._display.progress() as bar:
            line = bar.add_task("")

            def progress(at_s: float, collector: SampleCollector) -> None:
                bar.update(line, description=progress_line(streams, at_s, hold_s, collector))

            samples, use = self._runner.hold(
                streams, options.warm_up_s, hold_s, self._server.monitor, progress
            )
        transcripts = self._server.comparer.compare(samples.finished)
        level = check_level(samples, streams, rule, final, transcripts, use)
        self._display.show_level(level)
        return level

    def pin_workers(self, core: int) -> None:
        """Pin the workers of this machine, with all their threads, to one core."""
        self._runner.pin(core)

    def unfinished(self, levels: Sequence[Level]) -> CapacityResult:
        """Return the document of a search that has held `levels` so far."""
        broken = min((each.streams for each in levels if each.verdict == "fail"), default=math.inf)
        passed = [each.streams for each in levels if each.verdict == "pass"]
        streams = max((count for count in passed if count < broken), default=0)
        found = SearchResult(streams, None, list(levels), ended=False)
        return self.result(found, "capacity", UNFINISHED)

    def result(
        self, found: SearchResult, kind: Literal["capacity", "level"], limit: str
    ) -> CapacityResult:
        """Return the document of the run."""
        gpus, cores = self.conditions.gpu_count, self.conditions.cpu_cores
        return CapacityResult(
            schema=SCHEMA,
            kind=kind,
            verdict=found.verdict,
            streams=found.streams,
            streams_per_gpu=found.streams / gpus if gpus else None,
            streams_per_core=found.streams / cores if cores and not gpus else None,
            limit=limit,
            rule=rule_for(self.info, self.options.hold_s, self.options),
            levels=found.levels,
            conditions=self.conditions,
        )


@contextmanager
def measuring(options: LoadOptions, display: Display) -> Generator[Measurement]:
    """Connect to the server, record the reference transcripts, and start the load runner.

    If `options` have no URL, serve their repository for the length of the block.

    Raises:
        EarshotError: The server cannot be reached.
        ServerEnded: The server that was started did not become ready.
        LoadRunnerFailed: The load generator processes did not start.
        Unsuitable: The server expects another sampling rate, or no process generates load.
        FileNotFoundError: There are no recordings.
        ValueError: The server outputs no text for them.
    """
    _check_generators(options)
    with ensure_server(options) as served:
        clips = load_clips(served.speech)
        scripts = write_scripts(clips, served.min_stream_s)
        info, comparer = _connect(served, scripts, display)
        monitor = ServerMonitor(served.metrics_url, _processes(info.url), info.ensemble)
        if served.metrics_url and not monitor.has_metrics:
            display.console.print(
                f"no metrics at {served.metrics_url}: batches, queues and GPUs of the server stay "
                "unknown (--metrics-url)"
            )
        facts = conditions(info, served, clips, monitor.gpus)
        # Use the full name, because the newest model may change while levels are held.
        pinned = replace(served, model=info.name or None)
        with load_runner(pinned) as runner:
            server = MeasuredServer(info, comparer, monitor, facts)
            yield Measurement(pinned, server, runner, display)


def _check_generators(options: LoadOptions) -> None:
    if not options.processes + options.workers:
        raise Unsuitable(
            "expected at least one load generator process, got none: raise --processes or --workers"
        )
    if options.workers and options.master_port is None:
        raise Unsuitable("expected --master-port, to which the --workers of other machines connect")


def _connect(
    options: LoadOptions, scripts: Sequence[Script], display: Display
) -> tuple[earshot.ServerInfo, TranscriptComparer]:
    """Return the description of the server, and its reference transcripts of the scripts."""
    with connect(options.url, options.model) as client, display.progress() as bar:
        info = client.info
        if info.sample_rate_hz != SAMPLE_RATE_HZ:
            raise Unsuitable(
                f"expected a server of {SAMPLE_RATE_HZ} Hz, this one has {info.sample_rate_hz} Hz"
            )
        line = bar.add_task("recording the reference transcripts", total=len(scripts))
        references = record_reference(
            client, scripts, lambda done: bar.update(line, completed=done)
        )
    allowed = allowed_change(options, info.precision)
    return info, TranscriptComparer(scripts, references, allowed)


def _processes(url: str) -> list[psutil.Process]:
    return processes_behind(int(url.rpartition(":")[2])) if is_local(url) else []
