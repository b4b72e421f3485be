"""Identify the GPU and TensorRT of this machine: a plan runs only on those it was built for."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass

from .errors import BadGpu

_MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """The first GPU."""

    name: str
    memory_bytes: int


def this_gpu() -> Gpu:
    """Return the GPU that nvidia-smi reports, or raise BadGpu if there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            [*query, "--id=0"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BadGpu(
            f"TensorRT engines need a GPU, and nvidia-smi finds none here ({error}); start the "
            "container with `--gpus all` (`make gpu-up` does), or export for onnxruntime"
        ) from error
    name, memory_mib = map(str.strip, answer.stdout.split(","))
    return Gpu(name, int(memory_mib) * _MIB)


def tensorrt_version(major: int) -> tuple[int, int, int]:
    """Return the version of libnvinfer that tritonserver would load, or raise BadGpu."""
    try:
        library = ctypes.CDLL(f"libnvinfer.so.{major}")
    except OSError as error:
        raise BadGpu(
            f"the engines need TensorRT {major}, which is not here ({error}); serve them from the "
            "container of the tag that built them (`make gpu-up`)"
        ) from error
    number = int(library.getInferLibVersion())
    # NvInferVersion.h: major * 10000 + minor * 100 + patch, from TensorRT 10 on.
    return number // 10_000, number // 100 % 100, number % 100
