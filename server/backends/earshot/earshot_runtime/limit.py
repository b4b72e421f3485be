"""Pass the limit of open streams from the launcher to the first stage, through a file."""

from __future__ import annotations

from pathlib import Path


def write_limit(folder: Path, model: str, streams: int) -> None:
    """Let each instance of `model` hold `streams` streams at most."""
    new = folder / f"{model}.limit.new"
    new.write_text(str(streams))
    new.replace(_path(folder, model))  # readers never see half a file


def clear_limit(folder: Path, model: str) -> None:
    """Let the instances of `model` hold as many streams as they have slots."""
    _path(folder, model).unlink(missing_ok=True)


def read_limit(folder: Path, model: str) -> int | None:
    """Return the limit of each instance of `model`; None if there is none."""
    try:
        return int(_path(folder, model).read_text())
    except FileNotFoundError:
        return None


def _path(folder: Path, model: str) -> Path:
    return folder / f"{model}.limit"
