"""Messages between the process that holds a level and its workers, over Locust.

    coordinator (master, or alone)         worker (or alone)
    START with a window             ->     the live users stream, samples are recorded
                                    <-     SAMPLES a few times a second
    STOP, if the window is open     ->     the streams end
                                    <-     SAMPLES with `done` when the last stream has ended

Locust's own messages carry them, so they work the same in one process, with `--processes`, and
over several machines.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import gevent
from gevent.event import Event
from locust.env import Environment
from locust.runners import MasterRunner, Runner

from loadtest.live.samples import LevelSamples, SampleBatch, SampleCollector, Window
from loadtest.live.streams import StreamProcess
from loadtest.options import LoadOptions

_log = logging.getLogger(__name__)

START = "earshot-start"
STOP = "earshot-stop"
SAMPLES = "earshot-samples"
USERS_S = 0.02
DRAIN_S = 25.0
"""For the last answers after the end of a window: a client waits at most 20 s for one."""


class Worker:
    """Counts the live users of one process, and reports the samples of the streams they stand for.

    Args:
        environment: Locust's, with a runner.
        options: What the streams play.
        chart: Takes every batch of samples, for charts.
    """

    def __init__(
        self, environment: Environment, options: LoadOptions, chart: Callable[[SampleBatch], None]
    ) -> None:
        self._runner = _runner(environment)
        self._chart = chart
        self._users, self._url = 0, ""
        self._users_changed = Event()
        self._ready = Event()
        self._streams = StreamProcess(options)
        self._runner.register_message(START, self._on_start)
        self._runner.register_message(STOP, self._on_stop)
        gevent.spawn(self._report)
        gevent.spawn(self._pass_users_on)

    def wait_until_ready(self) -> None:
        """Wait until streams can be played."""
        self._ready.wait()

    @contextmanager
    def one_more(self, url: str) -> Generator[None]:
        """Keep one more live stream to the server at `url`, for the length of the block."""
        self._url = url
        self._users += 1
        self._users_changed.set()
        try:
            yield
        finally:
            self._users -= 1
            self._users_changed.set()

    def _pass_users_on(self) -> None:
        """Tell the process of the streams how many there are; many changes are one message."""
        while True:
            self._users_changed.wait()
            self._users_changed.clear()
            self._streams.hold(self._users, self._url)
            gevent.sleep(USERS_S)

    def _report(self) -> None:
        messages = self._streams.messages()
        for _ in messages:
            self._ready.set()
            break
        for batch in messages:
            self._chart(batch)
            self._runner.send_message(SAMPLES, batch)
        _log.error("the process of the live streams has ended")
        self._runner.quit()

    def _on_start(self, environment: Environment, msg: Any) -> None:
        self._streams.start(Window(**msg.data))

    def _on_stop(self, environment: Environment, msg: Any) -> None:
        self._streams.stop()


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
        """Start the streams; what is due in `hold_s` after `warm_up_s` is recorded."""
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
        """Wait for the last reports of all workers, and return the samples of all."""
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
