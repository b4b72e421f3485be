"""Run `python -m server` as a process of its own, and look at the processes that it starts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


UNLIMITED = ("--chunk-share", "0")
"""Refuse no stream for the load on the cores, which on a busy machine is not the test's own."""
_READY = re.compile(r"ready: gRPC (?P<grpc>127\.0\.0\.1:\d+), metrics (?P<metrics>\S+), log ")


@dataclass(frozen=True)
class Started:
    """A launcher that serves."""

    launcher: subprocess.Popen[str]
    pid: int
    """The process id of tritonserver, and the number of its process group."""
    url: str
    metrics_url: str


@contextlib.contextmanager
def served(repository: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`python -m server` when it is ready, and the pid of its tritonserver."""
    with started(repository, *options) as server:
        yield server.launcher, server.pid


@contextlib.contextmanager
def started(repository: Path, *options: str) -> Iterator[Started]:
    """`python -m server` when it is ready."""
    command = [sys.executable, "-m", "server", "--repository", str(repository)]
    command += ["--grpc-port", "0", "--metrics-port", "0", *options]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as launcher:
        try:
            assert launcher.stdout is not None
            ready = _READY.match(launcher.stdout.readline())
            assert ready, launcher.communicate()[1]
            (pid,) = children(launcher.pid)
            yield Started(launcher, pid, ready["grpc"], ready["metrics"])
        finally:
            launcher.kill()


def children(pid: int) -> list[int]:
    return [child for child, parent, _ in _processes() if parent == pid]


def process_group(pid: int) -> list[int]:
    """Living processes of a process group."""
    return [member for member, _, group in _processes() if group == pid]


def stop_process(pid: int) -> None:
    """Send SIGSTOP, and wait until the process has stopped."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: "\nState:\tT" in Path(f"/proc/{pid}/status").read_text())


def _processes() -> Iterator[tuple[int, int, int]]:
    """(pid, parent, process group) of all that are not zombies."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            if state != "Z":
                yield int(path.parent.name), int(parent), int(group)


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.1)
