"""Lays out the folder that Triton searches for backends.

Copies, not links: Triton refuses a backend library whose real path leaves its folder. They are
made anew for each start, so none can go stale.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .locate import STUB, TritonInstall
from .repository import BUNDLED_BACKENDS


def make_backend_directory(folder: Path, install: TritonInstall) -> Path:
    """Fills `folder` with the stock Python backend and the bundled ones; returns it."""
    python = folder / "python"
    python.mkdir(parents=True)
    for part in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(install.python_backend / part, python)
    shutil.copy(install.stub, python / STUB)
    for name, source in BUNDLED_BACKENDS.items():
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
