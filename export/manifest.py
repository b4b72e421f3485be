"""Write the manifest of an ensemble: origin, files, versions and parity, as one JSON file."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import onnx

from export.checkpoint import Checkpoint
from export.spec import CONTRACT_VERSION, StageSpec

_TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")


class Comparison(Protocol):
    """The result of a comparison with the original."""

    def as_dict(self) -> Mapping[str, Any]:
        """Return the entries for the manifest."""
        ...


class ModelSpec(Protocol):
    """The part of an ensemble's spec that goes into the manifest."""

    @property
    def runtime(self) -> str:
        """Return the runtime that executes the exported files."""
        ...

    @property
    def precision(self) -> str:
        """Return the arithmetic of the exported files."""
        ...

    @property
    def models(self) -> list[str]:
        """Return the names of all models."""
        ...

    @property
    def ensemble(self) -> StageSpec:
        """Return the model that clients call."""
        ...

    @property
    def manifest(self) -> dict[str, Any]:
        """Return the entries about the sizes of the models."""
        ...


def write_manifest(
    folder: Path,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    parity: Comparison | None,
    seconds: float,
    runtime_facts: Mapping[str, Any] | None = None,
) -> None:
    """Write `<ensemble>/1/manifest.json` into a repository that is being built.

    Args:
        runtime_facts: entries specific to the runtime.
    """
    # All files: a large model keeps its weights in a file beside the graph.
    found = (file for model in spec.models for file in folder.glob(f"{model}/1/**/*"))
    files = sorted(file for file in found if file.is_file())
    manifest: dict[str, Any] = {
        "checkpoint": {
            "name": checkpoint.name,
            "architecture": checkpoint.architecture,
            "parameters": checkpoint.parameters,
            "sha256": checkpoint.sha256,
        },
        "contract_version": CONTRACT_VERSION,
        "runtime": spec.runtime,
        "precision": spec.precision,
        "opset": max((_opset(file) for file in files if file.suffix == ".onnx"), default=None),
        **spec.manifest,
        "files": {str(file.relative_to(folder)): file_sha256(file) for file in files},
        "parity": parity and parity.as_dict(),
        "versions": {
            "python": platform.python_version(),
            **{tool: version(tool) for tool in _TOOLS},
        },
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "export_seconds": round(seconds, 1),
        **(runtime_facts or {}),
    }
    path = folder / spec.ensemble.name / "1" / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Return the hash of a file without reading it into memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opset(path: Path) -> int:
    return onnx.load(path, load_external_data=False).opset_import[0].version
