"""Find facts about the machine, the command and the time of a measurement."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """Return the kernel's name of the CPU, or the architecture if there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def this_command() -> str:
    """Return the command line of this run."""
    return shlex.join(["python", "-m", "loadtest", *sys.argv[1:]])


def now() -> str:
    """Return the time in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
