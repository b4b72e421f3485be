"""Read the log of tritonserver: the progress of its start, and the cause of a failure."""

from __future__ import annotations

import re
from pathlib import Path

_LINES = 30
_LOADED = re.compile(r"successfully loaded '")
# The lines that `earshot_runtime/opening.py` prints.
_OPENING = re.compile(r"^opening .* s$", re.MULTILINE)
# An error of a model, without the traceback that a Python backend appends after an escaped newline.
_LOAD_FAILURE = re.compile(r"failed to load '([^']+)' version \d+: (.+?)(?:\\n|\"$)", re.MULTILINE)
_POOL = re.compile(r"CUDA memory pool is created on device 0 with size (\d+)")
_POOL_OVERFLOW = re.compile(r"^.*falling back to pinned system memory.*$", re.MULTILINE)
# Tables repeat the options and models, each row as wide as its longest cell.
_TABLE_ROW = re.compile(r"[+|]")


def loaded_models(path: Path) -> int:
    """Return the number of models that are loaded so far."""
    return len(_LOADED.findall(_read(path)))


def opening_lines(path: Path) -> list[str]:
    """Return a line for each completed phase of opening an engine."""
    return _OPENING.findall(_read(path))


def failure_report(path: Path) -> str:
    """Return the models that failed, with their errors, then the last lines of the log."""
    text = _read(path)
    causes = [f"  {model}: {reason}" for model, reason in _LOAD_FAILURE.findall(text)]
    lines = [line for line in text.splitlines() if line and not _TABLE_ROW.match(line)]
    return "\n".join([*causes, f"the end of {path}:", *(f"  {line}" for line in lines[-_LINES:])])


def cuda_pool_bytes(path: Path) -> int:
    """Return the size of Triton's CUDA memory pool on GPU 0, 0 if it has none."""
    made = _POOL.search(_read(path))
    return int(made[1]) if made else 0


def cuda_pool_overflow(path: Path) -> str | None:
    """Return the line in which Triton reports, once, that it moves states to host memory."""
    overflow = _POOL_OVERFLOW.search(_read(path))
    return overflow[0] if overflow else None


def _read(path: Path) -> str:
    return path.read_text(errors="replace")
