"""A crowd of speakers, held level by level: a Locust master here, workers that speak elsewhere.

The speakers always have processes of their own, so that nothing this process does (drawing, reading
metrics, judging) can hold them up. On this machine the workers are started here; those on other
machines are started by hand with `locust -f loadtest/locustfile.py --worker --master-host HOST`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import gevent
import psutil
from locust.env import Environment
from locust.event import Events
from locust.runners import MasterRunner

from loadtest.locustfile import LiveSpeaker
from loadtest.metrics import ServerUse, ServerWatch
from loadtest.samples import Gathering, Samples
from loadtest.server_process import free_port
from loadtest.wiring import Moderator

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
PROJECT = Path(__file__).parent.parent
START_S = 60.0
"""For the workers of this machine to report, and for the speakers to take their places."""

Progress = Callable[[float, Gathering], None]
"""Seconds into the hold (negative: warm-up), and what has come in so far."""


class CrowdFailed(Exception):
    """The processes that speak did not start, or are gone."""


class Crowd:
    """Speakers of one server; make one with `crowd`."""

    def __init__(
        self, runner: MasterRunner, moderator: Moderator, workers: list[subprocess.Popen[str]]
    ) -> None:
        self._runner = runner
        self._moderator = moderator
        self._workers = workers

    @property
    def processes(self) -> int:
        """Processes that speak."""
        return len(self._runner.clients.all)

    def pin(self, core: int) -> None:
        """Keep the workers of this machine, all their threads, on one core."""
        for worker in self._workers:
            for thread in psutil.Process(worker.pid).threads():
                os.sched_setaffinity(thread.id, [core])

    def hold(
        self,
        streams: int,
        warm_up_s: float,
        hold_s: float,
        watch: ServerWatch,
        progress: Progress,
    ) -> tuple[Samples, ServerUse]:
        """Hold ``streams`` live streams; all of them begin anew.

        Raises:
            CrowdFailed: a process that speaks is gone.
        """
        self._seat(streams)
        self._moderator.speak(warm_up_s, hold_s)
        begin_s = time.monotonic() + warm_up_s
        self._wait(begin_s, begin_s, progress)
        watch.begin()
        self._wait(begin_s, begin_s + hold_s, progress, watch.sample)
        use = watch.end()
        return self._moderator.gather(), use

    def _seat(self, streams: int) -> None:
        self._runner.start(streams, spawn_rate=streams)
        give_up_s = time.monotonic() + START_S
        while not self._runner.spawning_completed or self._runner.user_count != streams:
            if not self._runner.clients.all:
                raise CrowdFailed("the processes that speak are gone")
            if time.monotonic() > give_up_s:
                raise CrowdFailed(f"{self._runner.user_count} of {streams} speakers came")
            gevent.sleep(0.05)

    def _wait(
        self,
        begin_s: float,
        until_s: float,
        progress: Progress,
        every_second: Callable[[], None] = lambda: None,
    ) -> None:
        while time.monotonic() < until_s:
            progress(time.monotonic() - begin_s, self._moderator.gathering)
            every_second()
            gevent.sleep(max(0.0, min(1.0, until_s - time.monotonic())))


@contextmanager
def crowd(
    url: str,
    speech: Path,
    talk_s: float,
    processes: int,
    remote_workers: int = 0,
    master_port: int | None = None,
    locustfile: Path = LOCUSTFILE,
    model: str | None = None,
) -> Generator[Crowd]:
    """Start ``processes`` workers here, and wait for ``remote_workers`` to come by themselves.

    Args:
        model: which recognizer of the server the workers of this machine speak to.

    Raises:
        CrowdFailed: they did not start.
    """
    # It warns of starting many users at once: they are told to speak only when all are there.
    logging.getLogger("locust").setLevel(logging.ERROR)
    port = master_port or free_port()
    environment = Environment(user_classes=[LiveSpeaker], host=url, events=Events())
    host = "*" if remote_workers else "127.0.0.1"
    runner = environment.create_master_runner(host, port)
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--worker"]
    command += ["--master-host", "127.0.0.1", "--master-port", str(port)]
    command += ["--speech", str(speech.resolve()), "--talk-s", str(talk_s)]
    command += ["--model", model] if model else []
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        workers = [stack.enter_context(_worker(command, log)) for _ in range(processes)]
        stack.callback(runner.quit)
        _await(runner, workers, processes + remote_workers, log)
        yield Crowd(runner, Moderator(environment), workers)


@contextmanager
def _worker(command: list[str], log: IO[str]) -> Generator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            try:
                process.wait(5)  # it has been told to quit
            except subprocess.TimeoutExpired:
                process.kill()


def _await(
    runner: MasterRunner, workers: list[subprocess.Popen[str]], count: int, log: IO[str]
) -> None:
    give_up_s = time.monotonic() + START_S
    while len(runner.clients.ready) < count:
        ended = [process for process in workers if process.poll() is not None]
        if ended or (time.monotonic() > give_up_s and len(workers) == count):
            log.seek(0)
            raise CrowdFailed(f"the processes that speak did not start:\n{log.read()[-2000:]}")
        gevent.sleep(0.05)
