"""Refuse engines of TensorRT for RTX that cannot run here because of GPU, driver or version.

The description of a model records the GPUs its engines were built for, and the version that built
them. TensorRT's own messages go to the log, and do not say what to do.
"""

from __future__ import annotations

import subprocess
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from .errors import BadStage
from .spec import StageSpec

BINDINGS = "tensorrt_rtx_bindings"


def require_rtx(spec: StageSpec, description: dict[str, Any]) -> None:
    """Check this machine for the engines of `description`.

    Raises:
        BadStage: there is no GPU, the engines were not built for it, its driver is too old, or
            TensorRT for RTX is missing or has another version.
    """
    if "driver" not in description:
        raise BadStage(f"{spec.model}: an earlier version exported its engines: export it again")
    _require_gpu(spec, description["gpus"])
    _require_driver(spec, description["driver"])
    _require_version(spec, description["version"])


def _require_gpu(spec: StageSpec, gpus: list[str]) -> None:
    if not torch.cuda.is_available():
        raise BadStage(
            f"{spec.model}: engines for {', '.join(gpus)} need such a GPU, and torch "
            f"{torch.__version__} sees none here: export with --runtime onnxruntime for a CPU"
        )
    major, minor = torch.cuda.get_device_capability()
    here = f"sm{major}{minor}"
    if here not in gpus:
        raise BadStage(
            f"{spec.model}: the engines are for {', '.join(gpus)}, and "
            f"{torch.cuda.get_device_name()} is {here}: export with --gpu {here}, or with "
            "--runtime torch if TensorRT for RTX does not support it, as sm90 (H100, H200)"
        )


def _require_driver(spec: StageSpec, wanted: int) -> None:
    found = _driver()
    if found and int(found.partition(".")[0]) < wanted:
        raise BadStage(
            f"{spec.model}: its engines need driver {wanted} or newer, this machine has {found}: "
            "update it, or export with --runtime torch"
        )


def _driver() -> str:
    """Return the version of the driver, or "" if there is no nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _require_version(spec: StageSpec, wanted: str) -> None:
    if find_spec(BINDINGS) is None:
        raise BadStage(
            f"{spec.model}: its engines need TensorRT for RTX, which is not installed: "
            "pip install '.[tensorrt-rtx]'"
        )
    found = import_module(BINDINGS).__version__
    if found != wanted:
        raise BadStage(
            f"{spec.model}: its engines were built by TensorRT for RTX {wanted}, installed is "
            f"{found}, and an engine loads only in the version that built it: install that one "
            "(`pip install --constraint constraints.txt '.[tensorrt-rtx]'`), or export again"
        )
