"""Identify the GPU of this machine with nvidia-smi, because a plan is for one kind of GPU."""

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
    """Refuse to continue without TensorRT.

    Raises:
        UnsupportedOption: it is not installed.
    """
    if not _installed("tensorrt"):
        raise UnsupportedOption(
            "TensorRT is not installed here; it comes with NVIDIA's container: `make gpu-up` "
            "builds the engines there and serves them"
        )


def require_tensorrt_rtx() -> None:
    """Refuse to continue without TensorRT for RTX.

    Raises:
        UnsupportedOption: it is not installed, or TensorRT is, which would be used instead.
    """
    if not _installed("tensorrt_rtx_bindings"):
        raise UnsupportedOption(
            "TensorRT for RTX is not installed here: `pip install --constraint constraints.txt "
            "'.[tensorrt-rtx]'` (`make env` does)"
        )
    if _installed("tensorrt"):
        raise UnsupportedOption(
            "TensorRT is installed here, and one environment builds with one of the two: use "
            "--runtime tensorrt, or export in an environment without the package tensorrt"
        )


def require_parser() -> None:
    """Refuse to continue without either TensorRT.

    Raises:
        UnsupportedOption: neither is installed.
    """
    if not _installed("tensorrt"):
        require_tensorrt_rtx()


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
