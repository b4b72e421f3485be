"""Share what is slow to make between the processes that run tests side by side."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[[Path], object]
"""Writes a file or folder to the path that it gets."""


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder of this run that all its worker processes see."""
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = root / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def made_once(path: Path, make: Make) -> Path:
    """Return `path`, made by the first worker that asks for it; others wait until it is there."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_name(f"{path.name}.new")
            make(unfinished)
            unfinished.rename(path)
    return path
