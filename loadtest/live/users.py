"""Define Locust's part of the load: the live user, its charts, and the controller of a level."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import earshot
import gevent
import numpy as np
from locust import User, constant, task
from locust.env import Environment
from locust.stats import bucket_response_time
from numpy.typing import NDArray

from loadtest.audio.scripts import Script
from loadtest.live.check import check_level, rule_for
from loadtest.live.messages import Coordinator, Worker
from loadtest.live.player import StreamPlayer
from loadtest.live.samples import RecentSamples, SampleBatch, chunk_rows
from loadtest.live.transcripts import TranscriptComparer, allowed_change, record_reference
from loadtest.options import LoadOptions
from loadtest.result.document import exit_code
from loadtest.result.level_line import describe
from loadtest.service.connection import connect
from loadtest.service.monitor import ServerUse

_log = logging.getLogger(__name__)


class LiveUser(User):
    """A Locust user: always one live stream between the messages START and STOP."""

    wait_time = constant(0)
    workers: ClassVar[dict[Environment, Worker]] = {}
    """Worker of each environment, registered before its users are spawned."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._worker = self.workers[environment]
        self._player: StreamPlayer | None = None

    @task
    def stream(self) -> None:
        """Play one stream."""
        if self._worker.recorder.wait_for_start() and self._player is not None:
            self._player.reset_phase()
        try:
            if self._player is None:
                self._player = self._worker.new_player(str(self.host))
            self._player.play()
        except earshot.EarshotError as error:
            self._worker.record_refusal(error)
            gevent.sleep(1.0)


class LocustCharts:
    """Feeds Locust's statistics, whose charts show only requests, which are the chunks."""

    def __init__(self, environment: Environment) -> None:
        self._request = environment.events.request
        self._stats: Any = environment.stats  # its type hints require whole milliseconds

    def show(self, batch: SampleBatch) -> None:
        """Add the samples of a batch to the charts, and its failures to the list."""
        rows = chunk_rows(batch)
        lateness_ms = rows[:, 3]
        finals_ms = np.frombuffer(batch["finals"], np.float32)
        for entry in (self._stats.total, self._stats.get("chunk latency", "stream")):
            _log_all(entry, rows[:, 2])
        _log_all(self._stats.get("lateness", "generator"), lateness_ms[lateness_ms >= 0])
        _log_all(self._stats.get("final latency", "stream"), finals_ms)
        for kind, count in batch["failures"].items():
            for _ in range(count):
                self._fail(f"{kind}: {batch['messages'][kind]}")

    def _fail(self, message: str) -> None:
        self._request.fire(
            request_type="stream",
            name="chunk latency",
            response_time=None,
            response_length=0,
            exception=Exception(message),
            context={},
        )


def _log_all(entry: Any, times_ms: NDArray[np.float32]) -> None:
    """Log many response times together, as `StatsEntry.log` takes 10 µs for each."""
    if not len(times_ms):
        return
    entry.log(float(times_ms[0]), 0)
    others = times_ms[1:]
    entry.num_requests += len(others)
    entry.num_reqs_per_sec[int(entry.last_request_timestamp)] += len(others)
    entry.total_response_time += float(others.sum())
    entry.min_response_time = min(entry.min_response_time, float(times_ms.min()))
    entry.max_response_time = max(entry.max_response_time, float(times_ms.max()))
    for time_ms, count in zip(*np.unique(others.round(), return_counts=True), strict=True):
        entry.response_times[bucket_response_time(float(time_ms))] += int(count)


class LevelController:
    """Holds one level for as long as Locust's controls specify, and prints the verdict on it."""

    def __init__(
        self, environment: Environment, options: LoadOptions, scripts: Sequence[Script]
    ) -> None:
        self._environment = environment
        self._options = options
        self._scripts = scripts
        self._coordinator = Coordinator(environment)
        self._info: earshot.ServerInfo | None = None
        self._comparer: TranscriptComparer | None = None
        environment.events.test_start.add_listener(self._on_test_start)
        environment.events.spawning_complete.add_listener(self._on_spawning_complete)
        environment.events.test_stopping.add_listener(self._on_test_stopping)

    def take_recent(self) -> RecentSamples:
        """Return the samples received since the last call."""
        return self._coordinator.collector.take_recent()

    def prepare(self) -> None:
        """Record the reference transcripts of the server at Locust's `host`.

        Raises:
            EarshotError: The server cannot be reached.
            ValueError: There is no host, or it is not a gRPC address.
        """
        if not self._environment.host:
            raise ValueError("no server: pass --host HOST:PORT (gRPC, port 8001 by default)")
        # The web UI may have changed the host.
        self._options = replace(self._options, url=str(self._environment.host))
        _log.info("recording the reference transcripts")
        with connect(self._options.url, self._options.model) as client:
            self._info = client.info
            references = record_reference(client, self._scripts, lambda done: None)
        allowed = allowed_change(self._options, self._info.precision)
        self._comparer = TranscriptComparer(self._scripts, references, allowed)

    def _on_test_start(self, **_: Any) -> None:
        if self._comparer is None or self._options.url != self._environment.host:
            try:
                self.prepare()
            except (earshot.EarshotError, ValueError) as error:
                _log.error("%s", error)
                self._comparer = None
                if self._environment.runner is not None:
                    gevent.spawn(self._environment.runner.stop)
                return
        self._coordinator.start(warm_up_s=0.0)  # for the charts; the measurement starts later

    def _on_spawning_complete(self, **_: Any) -> None:
        self._coordinator.start(self._options.warm_up_s)

    def _on_test_stopping(self, **_: Any) -> None:
        hold_s = self._coordinator.stop()
        samples = self._coordinator.collect()
        if self._info is None or self._comparer is None or not hold_s:
            _log.error(
                "stopped before anything was measured: spawning and the warm-up of %g s come first "
                "(--run-time)",
                self._options.warm_up_s,
            )
            self._environment.process_exit_code = 2
            return
        runner = self._environment.runner
        level = check_level(
            samples,
            runner.user_count if runner is not None else 0,
            rule_for(self._info, hold_s, self._options),
            True,
            self._comparer.compare(samples.finished),
            ServerUse(),
        )
        print(describe(level), flush=True)
        self._environment.process_exit_code = exit_code(level.verdict)
