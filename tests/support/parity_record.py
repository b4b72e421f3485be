"""Record the results of a parity test, if EARSHOT_RECORD names a file for them."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint

_TOOLS = ("transformers", "torch", "onnxruntime", "nvidia-pytriton", "numpy")


def record(kind: str, case: str, checkpoint: Checkpoint, **seen: Any) -> None:
    """Add the results of one case to the file; those of other cases stay."""
    target = os.environ.get("EARSHOT_RECORD")
    if target is None:
        return
    path = Path(target)
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(kind, {})[case] = {
        **seen,
        "checkpoint": f"{checkpoint.name} ({checkpoint.architecture})",
        "sha256": checkpoint.sha256,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), **{t: version(t) for t in _TOOLS}},
    }
    path.write_text(json.dumps(known, indent=2) + "\n")
