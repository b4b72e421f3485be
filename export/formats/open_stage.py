"""Open an exported stage in the runtime that it was exported for."""

from __future__ import annotations

from pathlib import Path

from export.formats.onnx_stage import OnnxStage
from export.formats.packed_adapters import PackedAdapters
from export.formats.pooled_stage import PooledStage, open_torch_stage
from export.spec import StageSpec


def open_stage(
    runtime: str,
    path: Path,
    spec: StageSpec,
    streams: int,
    adapters: PackedAdapters | None = None,
) -> OnnxStage | PooledStage:
    """Open a stage for torch or ONNX Runtime; see the two classes for the arguments."""
    opener = open_torch_stage if runtime == "torch" else OnnxStage
    return opener(path, spec, streams, adapters)
