"""Identify the GPU of this machine with nvidia-smi: a plan is for one kind of GPU."""

from __future__ import annotations

import importlib.util
import subprocess
from dataclasses import dataclass

from export.errors import UnsupportedOption

_FIELDS = "name,driver_version,compute_cap,memory.total"


@dataclass(frozen=True)
class Gpu:
    """The first GPU."""

    name: str
    driver: str
    compute_capability: str
    memory_mib: int


def this_gpu() -> Gpu:
    """Return the GPU that nvidia-smi reports.

    Raises:
        UnsupportedOption: there is no GPU.
    """
    command = ["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnsupportedOption(
            f"TensorRT engines are built on the GPU that will serve them, and nvidia-smi finds "
            f"none here ({error}); `make gpu-up` builds them in NVIDIA's container"
        ) from error
    name, driver, capability, memory = map(str.strip, answer.stdout.split(","))
    return Gpu(name, driver, capability, int(memory))


def require_tensorrt() -> None:
    """Refuse to go on without TensorRT.

    Raises:
        UnsupportedOption: it is not installed.
    """
    if importlib.util.find_spec("tensorrt") is None:
        raise UnsupportedOption(
            "TensorRT is not installed here; it comes with NVIDIA's container: `make gpu-up` "
            "builds the engines there and serves them"
        )
