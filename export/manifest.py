"""What was exported, from what, with what, and how well it agrees: one JSON file per model."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from export.checkpoint import Checkpoint
from export.onnx_file import OPSET
from export.parity import Parity
from export.spec import CONTRACT_VERSION, StreamingSpec

_TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")


def write_manifest(
    folder: Path, checkpoint: Checkpoint, spec: StreamingSpec, parity: Parity | None, seconds: float
) -> None:
    """Write ``<ensemble>/1/manifest.json`` into a repository that is being built."""
    manifest = {
        "checkpoint": {
            "name": checkpoint.name,
            "architecture": type(checkpoint.model).__name__,
            "parameters": checkpoint.parameters,
            "sha256": checkpoint.sha256,
        },
        "contract_version": CONTRACT_VERSION,
        "chunk_ms": spec.chunk_ms,
        "runtime": spec.runtime,
        "precision": spec.precision,
        "layout": spec.layout,
        "opset": OPSET,
        "dims": {
            "frames_per_chunk": spec.frames,
            "num_mel_bins": spec.num_mel_bins,
            "encoded_size": spec.encoded_size,
            "max_tokens": spec.max_tokens,
            "state": {stage.name: asdict(stage.state) for stage in spec.stages if stage.state},
        },
        "files": {
            str(path.relative_to(folder)): _sha256(path)
            for path in sorted(folder.glob("*/1/*"))
            # A large model keeps its weights in a file beside the graph.
        },
        "parity": parity and parity.as_dict(),
        "versions": {
            "python": platform.python_version(),
            **{tool: version(tool) for tool in _TOOLS},
        },
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "export_seconds": round(seconds, 1),
    }
    path = folder / spec.ensemble.name / "1" / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
