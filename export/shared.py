"""Find and check ensembles that share the models of a recognizer: adapters and heads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint
from export.errors import UnsupportedCheckpoint, UnsupportedOption
from export.manifest import file_sha256
from export.spec import ENSEMBLES, served_name

CONFIG = "config.pbtxt"
_STEP = re.compile(r'model_name: "(.+?)"')


def read_base(repository: Path, ensemble: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the manifest of an ensemble whose models are to be shared.

    Raises:
        UnsupportedOption: it is missing, itself shares the models of another ensemble, or was
            exported from other weights than those of `checkpoint`.
    """
    manifest = read_manifest(repository / ensemble)
    if not manifest:
        raise UnsupportedOption(
            f"{repository} has no recognizer {ensemble}: export it first with `python -m export`, "
            "or choose another with --base"
        )
    if "base" in manifest:
        raise UnsupportedOption(
            f"{ensemble} has no models of its own, but shares those of {manifest['base']}: choose "
            "that one with --base, and add to it in one command what is to be served together"
        )
    exported = manifest["checkpoint"]
    if exported["sha256"] != checkpoint.sha256:
        raise UnsupportedOption(
            f"{ensemble} in {repository} was exported from other weights ({exported['name']}) "
            f"than {checkpoint.name}; choose another --base, or export {checkpoint.name}"
        )
    return manifest


def require_trained_on(folder: Path, base_sha256: str, checkpoint: Path) -> None:
    """Refuse an adapter or heads that were trained on other weights than those of `checkpoint`.

    Args:
        folder: the folder of the adapter or the heads.
        base_sha256: hash of the `model.safetensors` that they were trained on.

    Raises:
        UnsupportedCheckpoint: they were trained on other weights.
    """
    try:
        found = file_sha256(checkpoint / "model.safetensors")
    except OSError as error:
        raise UnsupportedCheckpoint(
            f"expected the folder of the checkpoint that {folder} was trained on: {error}"
        ) from error
    if found != base_sha256:
        raise UnsupportedCheckpoint(
            f"{folder} was trained on weights with sha256 {base_sha256[:12]}, those of "
            f"{checkpoint} have {found[:12]}: train it again on this checkpoint"
        )


def require_free(repository: Path, name: str, kind: str) -> None:
    """Refuse the name of a recognizer of another kind; a recognizer of the same kind is replaced.

    Args:
        kind: the entry that only the manifests of its kind have, `adapter` or `heads`.
    """
    for role in ENSEMBLES:
        folder = repository / served_name(name, role)
        if folder.exists() and kind not in read_manifest(folder):
            raise UnsupportedOption(
                f"{repository} has a recognizer '{name}' of another kind; choose another --name"
            )


def outdated(repository: Path, base: str) -> dict[str, str]:
    """Find the ensembles that share the models of the ensemble `base` but no longer fit them.

    Returns, for each of them, the command that installs it again.
    """
    now, steps = read_manifest(repository / base), _steps(repository / base)
    found: dict[str, str] = {}
    for folder in sorted(repository.iterdir()):
        other, manifest = folder.name, read_manifest(folder)
        if manifest.get("base") != base:
            continue
        own = _steps(folder)
        fits = manifest["checkpoint"]["sha256"] == now["checkpoint"]["sha256"]
        fits &= steps <= own and all((repository / step / CONFIG).is_file() for step in own)
        if "adapter" in manifest:
            if not fits or manifest["adapter_rank"] != now.get("adapter_rank"):
                found[other] = "python -m export.adapters"
        elif not fits or manifest["chunk_ms"] != now["chunk_ms"] or now["layout"] != "stages":
            found[other] = "python -m export.heads"
    return found


def _steps(ensemble: Path) -> set[str]:
    """Return the models that an ensemble consists of, by its config."""
    config = ensemble / CONFIG
    return set(_STEP.findall(config.read_text(encoding="utf-8"))) if config.is_file() else set()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an ensemble; empty if it was not written by this export."""
    try:
        return json.loads((folder / "1" / "manifest.json").read_text("utf-8"))
    except OSError:
        return {}
