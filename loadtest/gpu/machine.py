"""Describe the GPU machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from loadtest.result.machine import cpu_model, usable_cores

PACKAGES = ("torch", "numpy", "transformers", "nvidia-pytriton", "locust", "grpcio")


def gpu_bytes() -> float:
    """Return the memory of the first GPU; 0 without one."""
    gpus = _query_gpus("memory.total")
    return float(gpus[0][0]) * 2**20 if gpus else 0.0


def describe_machine() -> dict[str, Any]:
    """Return GPUs, CPU, memory and versions, ready for JSON."""
    return {
        "gpus": [
            f"{name}, {memory} MiB, {driver}"
            for name, memory, driver in _query_gpus("name,memory.total,driver_version")
        ],
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "conditions": "server and load generator share these cores",
    }


def _query_gpus(fields: str) -> list[list[str]]:
    """Return the values of `fields`, without units, of each GPU."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split(", ") for line in found.stdout.splitlines() if line]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
