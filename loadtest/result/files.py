"""The folder of committed results, and which of its documents are of which kind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

RESULTS = Path(__file__).parent / "results"


def of_kind(paths: Iterable[Path], kind: str) -> list[Path]:
    """Those of ``paths`` that hold a JSON document with this `kind`, by name.

    Raises:
        OSError: one cannot be read.
        ValueError: one is not JSON.
    """
    return sorted(path for path in paths if _kind(path) == kind)


def _kind(path: Path) -> object:
    try:
        document: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return cast(dict[str, object], document).get("kind") if isinstance(document, dict) else None
