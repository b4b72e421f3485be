"""Lay out the folder that Triton searches for backends.

The folder holds copies, not links: Triton refuses a backend library whose real path lies elsewhere.
They are made anew for each start, so none can be out of date.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .errors import TritonNotFound
from .locate import STUB, TritonInstall
from .repository import BUNDLED_BACKEND, TENSORRT


def make_backend_directory(folder: Path, install: TritonInstall, runtime: str) -> Path:
    """Fill `folder` with the stock Python backend, the bundled backend and the runtime's own.

    Returns:
        `folder`.

    Raises:
        TritonNotFound: a TensorRT backend is needed and this Triton has none.
    """
    python = folder / "python"
    python.mkdir(parents=True)
    for part in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(install.python_backend / part, python)
    shutil.copy(install.stub, python / STUB)
    bundled = folder / BUNDLED_BACKEND.name
    shutil.copytree(BUNDLED_BACKEND, bundled, ignore=shutil.ignore_patterns("__pycache__"))
    if runtime == TENSORRT:
        _copy_tensorrt(folder, install)
    return folder


def _copy_tensorrt(folder: Path, install: TritonInstall) -> None:
    source = install.python_backend.parent / TENSORRT
    if not (source / "libtriton_tensorrt.so").is_file():
        raise TritonNotFound(
            f"{install.binary} has no TensorRT backend ({source} is not there): serve these "
            "engines from NVIDIA's container (`make gpu-up`), or export for onnxruntime"
        )
    shutil.copytree(source, folder / TENSORRT)
