"""Ensembles that share the models of an exported recognizer: adapters, and heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.errors import UnsupportedOption
from export.spec import served_name
from export.streaming.spec import ENSEMBLE


def require_free(repository: Path, name: str, kind: str) -> None:
    """Refuse the name of a recognizer of another kind; one of the same kind is replaced.

    Args:
        kind: the entry that only the manifests of its kind have, `adapter` or `heads`.
    """
    folder = repository / served_name(name, ENSEMBLE)
    if folder.exists() and kind not in _manifest(folder):
        raise UnsupportedOption(
            f"{repository} has a recognizer '{name}' of another kind; choose another --name"
        )


def outdated(repository: Path, base: str) -> dict[str, str]:
    """Return the ensembles that share the models of the ensemble `base`, and no longer fit them.

    By ensemble, the command that installs it again.
    """
    now = _manifest(repository / base)
    found: dict[str, str] = {}
    for folder in sorted(repository.iterdir()):
        other, manifest = folder.name, _manifest(folder)
        if manifest.get("base") != base:
            continue
        fits = manifest["checkpoint"]["sha256"] == now["checkpoint"]["sha256"]
        if "adapter" in manifest:
            if not fits or manifest["adapter_rank"] != now.get("adapter_rank"):
                found[other] = "python -m export.adapters"
        elif not fits or manifest["chunk_ms"] != now["chunk_ms"] or now["layout"] != "stages":
            found[other] = "python -m export.heads"
    return found


def _manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an ensemble; empty for what this export has not written."""
    try:
        return json.loads((folder / "1" / "manifest.json").read_text("utf-8"))
    except OSError:
        return {}
