"""The machine that a figure was taken on."""

from __future__ import annotations

import contextlib
import os
import platform
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
