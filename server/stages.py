"""Watch the processes of the stages: for Triton, a model with a dead process is still ready."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .heartbeats import read_heartbeats, standstill

POLL_S = 0.25
_HELD_UP_S = 4 * POLL_S
"""After this long between two looks, the machine is too busy for a reliable result."""
_LOOKS_PER_LISTING = 8
"""Listing is slow: a tritonserver has hundreds of threads, each with its own list of children."""


@dataclass(frozen=True)
class _Process:
    pid: int
    state: str
    exit_status: int

    @property
    def is_dead(self) -> bool:
        """Return True if the process is a zombie."""
        return self.state == "Z"


class StageWatch:
    """Looks at the processes that a tritonserver has started, and at their heartbeats.

    This includes the processes that stages have started for shared engines.
    """

    def __init__(self, server_pid: int, heartbeats: Path) -> None:
        self._server_pid = server_pid
        self._heartbeats = heartbeats
        self._children: set[int] = set()
        self._engines: set[int] = set()
        self._looks = 0
        self._suspects: set[str] = set()
        self._looked_s = time.monotonic()
        self.look()

    def look(self) -> str | None:
        """Return the problem of a stage if two looks in a row find it, else None."""
        now_s = time.monotonic()
        held_up = now_s - self._looked_s > _HELD_UP_S
        self._looked_s = now_s
        problems = set(self._problems(now_s))
        confirmed = problems & self._suspects
        self._suspects = set() if held_up else problems
        return min(confirmed, default=None) if not held_up else None

    def _problems(self, now_s: float) -> Iterator[str]:
        if self._looks % _LOOKS_PER_LISTING == 0:
            stages = set(_list_children(self._server_pid))
            self._engines = {engine for stage in stages for engine in _list_children(stage)}
            self._children = stages | self._engines
        self._looks += 1
        living: set[int] = set()
        for process in filter(None, map(_read, self._children)):
            if process.is_dead:
                # Triton reaps the processes that it ends, so this one ended by itself. The process
                # of an engine does so, without an error, after its last stage.
                if process.exit_status or process.pid not in self._engines:
                    yield f"{self._name(process.pid)} {_how(process.exit_status)}"
            else:
                living.add(process.pid)
        for beat in read_heartbeats(self._heartbeats):
            if beat["pid"] in living and (problem := standstill(beat, now_s)):
                yield f"{self._name(beat['pid'])} {problem}"

    def _name(self, pid: int) -> str:
        """Return the name of a process, from its heartbeat, which is there even after its death."""
        beats = read_heartbeats(self._heartbeats)
        instance = next((beat["instance"] for beat in beats if beat["pid"] == pid), "a stage")
        return f"the process of {instance} ({pid})"


def _list_children(parent: int) -> Iterator[int]:
    """Yield the child processes of `parent`, including zombies."""
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, task.read_text().split())


def _read(pid: int) -> _Process | None:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return _Process(pid, state=fields[0], exit_status=int(fields[-1]))
    return None


def _how(exit_status: int) -> str:
    number = exit_status & 0x7F
    if not number:
        return f"has ended with exit code {exit_status >> 8}"
    return f"was ended by {signal.Signals(number).name}"
