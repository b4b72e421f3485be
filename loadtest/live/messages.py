"""Exchange messages between the process that holds a level and its workers, over Locust.

    coordinator (master, or alone)         worker (or alone)
    START with a window             ->     the live users stream, samples are recorded
                                    <-     SAMPLES a few times a second
    STOP, if the window is open     ->     the streams end
                                    <-     SAMPLES with `done` when the last stream has ended

Locust's own messages carry them, so they work the same in one process, with `--processes`, and
over several machines.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import earshot
import gevent
from gevent.lock import Semaphore
from locust.env import Environment
from locust.runners import MasterRunner, Runner

from loadtest.audio.scripts import Script
from loadtest.live.exchange import Service
from loadtest.live.player import StreamPlayer
from loadtest.live.priority import use_real_time_priority
from loadtest.live.samples import (
    LevelSamples,
    SampleBatch,
    SampleCollector,
    SampleRecorder,
    Window,
)

START = "earshot-start"
STOP = "earshot-stop"
SAMPLES = "earshot-samples"
DRAIN_S = 25.0
"""Time for the last answers after the end of a window; a client waits at most 20 s for one."""


class Worker:
    """Runs the live users of one process, and reports their samples."""

    def __init__(
        self,
        environment: Environment,
        scripts: Sequence[Script],
        observe: Callable[[SampleBatch], None],
        model: str | None,
    ) -> None:
        """Prepare the users; call `observe` with their samples a few times a second, for charts."""
        self.recorder = SampleRecorder()
        self._scripts = scripts
        self._model = model
        self._service: Service | None = None
        self._connecting = Semaphore()
        self._players = 0
        runner = _runner(environment)
        runner.register_message(START, self._on_start)
        runner.register_message(STOP, self._on_stop)
        use_real_time_priority()
        # A full collection over all imported objects would delay every live user.
        gc.collect()
        gc.freeze()
        gevent.spawn(self.recorder.tick_forever)

        def report(batch: SampleBatch) -> None:
            observe(batch)
            runner.send_message(SAMPLES, batch)

        gevent.spawn(self.recorder.report_forever, report)

    def new_player(self, url: str) -> StreamPlayer:
        """Return another player; all share a connection. Raises as `earshot.connect`."""
        with self._connecting:
            if self._service is None:
                self._service = Service(url, self._model, self._scripts)
        self._players += 1
        return StreamPlayer(self._players, self._service, self.recorder)

    def record_refusal(self, error: earshot.EarshotError) -> None:
        """Record that this process cannot reach the server."""
        self.recorder.record_failure(type(error).__name__, str(error))

    def _on_start(self, environment: Environment, msg: Any) -> None:
        self.recorder.start(Window(**msg.data))

    def _on_stop(self, environment: Environment, msg: Any) -> None:
        self.recorder.stop()


class Coordinator:
    """Starts and stops the streams of all workers, and collects their samples."""

    def __init__(self, environment: Environment) -> None:
        self._runner = _runner(environment)
        self._level = 0
        self._measured_from_s = math.inf
        self._workers: list[str] = []
        self.collector = SampleCollector(0)
        self._runner.register_message(SAMPLES, self._on_samples)

    def start(self, warm_up_s: float, hold_s: float = math.inf) -> None:
        """Start the streams; record what is due within `hold_s` after `warm_up_s`."""
        self._level += 1
        self._workers = self._worker_ids()
        self.collector = SampleCollector(self._level)
        self._measured_from_s = time.monotonic() + warm_up_s
        self._runner.send_message(START, asdict(Window(self._level, warm_up_s, hold_s)))

    def stop(self) -> float:
        """End the streams; return for how long samples were recorded."""
        self._runner.send_message(STOP)
        return max(0.0, time.monotonic() - self._measured_from_s)

    def collect(self) -> LevelSamples:
        """Wait for the last reports of all workers, and return all samples."""
        give_up_s = time.monotonic() + DRAIN_S
        while self.collector.unfinished(self._workers) and time.monotonic() < give_up_s:
            gevent.sleep(0.05)
        return self.collector.samples(self._workers)

    def _worker_ids(self) -> list[str]:
        if isinstance(self._runner, MasterRunner):
            return [worker.id for worker in self._runner.clients.all]
        return ["local"]

    def _on_samples(self, environment: Environment, msg: Any) -> None:
        batch: SampleBatch = msg.data
        self.collector.add(msg.node_id, batch)


def _runner(environment: Environment) -> Runner:
    assert environment.runner is not None
    return environment.runner
