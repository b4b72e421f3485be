"""Hold levels of live streams with a Locust master in this process, and workers in others.

Live users always run in processes of their own, so that this process (drawing, reading metrics,
checking levels) cannot delay them. Workers on this machine are started here; those on other
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
from typing import IO

import gevent
import psutil
from locust.env import Environment
from locust.event import Events
from locust.runners import MasterRunner

from loadtest.live.messages import Coordinator
from loadtest.live.samples import LevelSamples, SampleCollector
from loadtest.live.users import LiveUser
from loadtest.options import PROJECT, LoadOptions, console
from loadtest.service.monitor import ServerMonitor, ServerUse
from loadtest.service.server import free_port

START_S = 300.0
"""Time for the workers of this machine to connect, and for the live users to be spawned."""
REMOTE_START_S = 600.0
"""Time for workers that are started by hand on other machines to connect."""

Progress = Callable[[float, SampleCollector], None]
"""Called with the seconds since the start of the hold (negative: warm-up) and the samples so
far."""


class LoadRunnerFailed(Exception):
    """Workers did not start, or have ended early."""


class LoadRunner:
    """Live users of one server; made by `load_runner`."""

    def __init__(
        self, runner: MasterRunner, coordinator: Coordinator, workers: list[subprocess.Popen[str]]
    ) -> None:
        self._runner = runner
        self._coordinator = coordinator
        self._workers = workers

    def pin(self, core: int) -> None:
        """Pin the workers of this machine, with all their threads, to one core."""
        for worker in self._workers:
            for thread in psutil.Process(worker.pid).threads():
                os.sched_setaffinity(thread.id, [core])

    def hold(
        self,
        streams: int,
        warm_up_s: float,
        hold_s: float,
        monitor: ServerMonitor,
        progress: Progress,
    ) -> tuple[LevelSamples, ServerUse]:
        """Hold `streams` live streams, all of them newly started.

        Raises:
            LoadRunnerFailed: A worker has ended.
        """
        self._spawn(streams)
        self._coordinator.start(warm_up_s, hold_s)
        begin_s = time.monotonic() + warm_up_s
        self._wait(begin_s, begin_s, progress)
        monitor.begin()
        self._wait(begin_s, begin_s + hold_s, progress, monitor.sample)
        use = monitor.end()
        return self._coordinator.collect(), use

    def _spawn(self, streams: int) -> None:
        self._runner.start(streams, spawn_rate=streams)
        give_up_s = time.monotonic() + START_S
        while not self._runner.spawning_completed or self._runner.user_count != streams:
            if not self._runner.clients.all:
                raise LoadRunnerFailed("all load generator processes have ended")
            if time.monotonic() > give_up_s:
                raise LoadRunnerFailed(
                    f"only {self._runner.user_count} of {streams} live users were spawned"
                )
            gevent.sleep(0.05)

    def _wait(
        self,
        begin_s: float,
        until_s: float,
        progress: Progress,
        every_second: Callable[[], None] = lambda: None,
    ) -> None:
        while time.monotonic() < until_s:
            progress(time.monotonic() - begin_s, self._coordinator.collector)
            every_second()
            gevent.sleep(max(0.0, min(1.0, until_s - time.monotonic())))


@contextmanager
def load_runner(options: LoadOptions) -> Generator[LoadRunner]:
    """Start the workers of this machine, and wait for those of other machines to connect.

    Raises:
        LoadRunnerFailed: The workers did not start.
    """
    # Locust warns of spawning many users at once, but their streams start only when all are
    # spawned.
    logging.getLogger("locust").setLevel(logging.ERROR)
    port = options.master_port or free_port()
    environment = Environment(user_classes=[LiveUser], host=options.url, events=Events())
    runner = environment.create_master_runner("*" if options.workers else "127.0.0.1", port)
    command = _worker_command(options, port)
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        workers = [stack.enter_context(_worker(command, log)) for _ in range(options.processes)]
        stack.callback(runner.quit)
        _await(runner, workers, options.processes + options.workers, log)
        yield LoadRunner(runner, Coordinator(environment), workers)


def _worker_command(options: LoadOptions, port: int) -> list[str]:
    command = [sys.executable, "-m", "locust", "-f", str(options.locustfile), "--worker"]
    command += ["--master-host", "127.0.0.1", "--master-port", str(port)]
    command += ["--speech", str(options.speech.resolve()), "--talk-s", str(options.min_stream_s)]
    return command + (["--model", options.model] if options.model else [])


@contextmanager
def _worker(command: list[str], log: IO[str]) -> Generator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            try:
                process.wait(5)  # the master has sent the order to quit
            except subprocess.TimeoutExpired:
                process.kill()


def _await(
    runner: MasterRunner, workers: list[subprocess.Popen[str]], count: int, log: IO[str]
) -> None:
    remote = count - len(workers)
    give_up_s = time.monotonic() + (REMOTE_START_S if remote else START_S)
    if remote:
        port = runner.master_bind_port
        console.print(
            f"waiting for {remote} worker{'s' if remote > 1 else ''} of other machines on port "
            f"{port}: locust -f loadtest/locustfile.py --worker --master-host <this machine> "
            f"--master-port {port}",
            soft_wrap=True,
            highlight=False,
        )
    while len(runner.clients.ready) < count:
        ended = [process for process in workers if process.poll() is not None]
        if ended or (time.monotonic() > give_up_s and not remote):
            log.seek(0)
            raise LoadRunnerFailed(
                f"the load generator processes did not start:\n{log.read()[-2000:]}"
            )
        if time.monotonic() > give_up_s:
            raise LoadRunnerFailed(
                f"only {len(runner.clients.ready)} of {count} load generator processes connected "
                f"to port {runner.master_bind_port} within {REMOTE_START_S:.0f} s (--workers)"
            )
        gevent.sleep(0.05)
