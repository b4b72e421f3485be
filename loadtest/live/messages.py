"""Order and answer between the process that holds a level and those that speak, over Locust.

    moderator (master, or alone)           station (worker, or alone)
    SPEAK with a window             ->     the speakers speak, samples are taken
                                    <-     HEARD a few times a second
    HANG_UP, if the window is open  ->     the streams end
                                    <-     HEARD with `done` when the last stream has ended

Locust's own messages carry it, so it works the same in one process, with `--processes` and over
machines.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import earshot
import gevent
from gevent.lock import Semaphore
from locust.env import Environment
from locust.runners import MasterRunner, Runner

from loadtest.priority import go_first
from loadtest.samples import Batch, Gathering, Recorder, Samples, Window
from loadtest.speaker import Speaker, Watcher
from loadtest.speech import Script

SPEAK = "earshot-speak"
HANG_UP = "earshot-hang-up"
HEARD = "earshot-heard"
DRAIN_S = 25.0
"""For the last answers after the end of a window: a client waits no longer than 20 s for one."""


class Station:
    """The speakers of one process."""

    def __init__(
        self,
        environment: Environment,
        scripts: Sequence[Script],
        watcher: Watcher,
        model: str | None,
    ) -> None:
        self.recorder = Recorder()
        self._watcher = watcher
        self._scripts = scripts
        self._model = model
        self._client: earshot.Client | None = None
        self._connecting = Semaphore()
        self._speakers = 0
        runner = _runner(environment)
        runner.register_message(SPEAK, self._on_speak)
        runner.register_message(HANG_UP, self._on_hang_up)
        go_first()
        # A full collection over all that was imported would hold up every speaker.
        gc.collect()
        gc.freeze()
        gevent.spawn(self.recorder.tick_forever)
        gevent.spawn(self.recorder.report_forever, lambda batch: runner.send_message(HEARD, batch))

    def new_speaker(self, url: str) -> Speaker:
        """One more speaker; all share a connection. Raises what `earshot.connect` raises."""
        with self._connecting:
            if self._client is None:
                self._client = earshot.connect(url, model=self._model)
        self._speakers += 1
        return Speaker(self._speakers, self._client, self._scripts, self.recorder, self._watcher)

    def refused(self, error: earshot.EarshotError) -> None:
        """The server cannot be reached from here."""
        self.recorder.failure(type(error).__name__, str(error))
        self._watcher.failure(error)

    def _on_speak(self, environment: Environment, msg: Any) -> None:
        self.recorder.begin(Window(**msg.data))

    def _on_hang_up(self, environment: Environment, msg: Any) -> None:
        self.recorder.stop()


class Moderator:
    """Tells the speakers of all processes when to speak, and gathers what they report."""

    def __init__(self, environment: Environment) -> None:
        self._runner = _runner(environment)
        self._level = 0
        self._measured_from_s = math.inf
        self._processes: list[str] = []
        self.gathering = Gathering(0)
        self._runner.register_message(HEARD, self._on_heard)

    def speak(self, warm_up_s: float, hold_s: float = math.inf) -> None:
        """Let the speakers speak; what is due in ``hold_s`` after ``warm_up_s`` is recorded."""
        self._level += 1
        self._processes = self._speaking_processes()
        self.gathering = Gathering(self._level)
        self._measured_from_s = time.monotonic() + warm_up_s
        self._runner.send_message(SPEAK, asdict(Window(self._level, warm_up_s, hold_s)))

    def hang_up(self) -> float:
        """End the streams; returns for how long was recorded."""
        self._runner.send_message(HANG_UP)
        return max(0.0, time.monotonic() - self._measured_from_s)

    def gather(self) -> Samples:
        """Wait for the last reports of all processes, and put them together."""
        give_up_s = time.monotonic() + DRAIN_S
        while self.gathering.unfinished(self._processes) and time.monotonic() < give_up_s:
            gevent.sleep(0.05)
        return self.gathering.samples(self._processes)

    def _speaking_processes(self) -> list[str]:
        if isinstance(self._runner, MasterRunner):
            return [worker.id for worker in self._runner.clients.all]
        return ["local"]

    def _on_heard(self, environment: Environment, msg: Any) -> None:
        batch: Batch = msg.data
        self.gathering.add(msg.node_id, batch)


def _runner(environment: Environment) -> Runner:
    assert environment.runner is not None
    return environment.runner
