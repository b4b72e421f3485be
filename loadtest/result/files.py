"""Write and find JSON documents on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

RESULTS = Path(__file__).parents[1] / "results"


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, and create its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def require_writable(path: Path) -> None:
    """Raise OSError unless `path` can be written; call this before hours of work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected the path of a file")
    part = path.with_name(f"{path.name}.part")
    part.write_text("")
    part.unlink()


def of_kind(paths: Iterable[Path], kind: str) -> list[Path]:
    """Return the paths that contain a JSON document of this `kind`, sorted.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not JSON.
    """
    return sorted(path for path in paths if _kind(path) == kind)


def _kind(path: Path) -> object:
    try:
        document: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return cast(dict[str, object], document).get("kind") if isinstance(document, dict) else None
