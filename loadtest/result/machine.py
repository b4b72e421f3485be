"""What a figure was taken on and with."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path


def usable_cores() -> int:
    """Cores that processes of this machine may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """As the kernel names it; the architecture where it does not."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def this_command() -> str:
    """What was typed to get the figure."""
    return shlex.join(["python", "-m", "loadtest", *sys.argv[1:]])


def now() -> str:
    """The time, in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
