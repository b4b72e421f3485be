"""Graphs of a small checkpoint for TensorRT, and what tests need to name them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint import Checkpoint
from export.options import ExportOptions
from export.stages.half import Stages
from export.streaming.export import spec_of
from export.streaming.spec import StreamingSpec
from export.tensorrt.stages import tensorrt_stages

CHUNK_MS, FRAMES = 160, 2
"""Two frames: the straight-line decoder grows with them."""


@dataclass(frozen=True)
class Graphs:
    """The ONNX files of the stages of one precision, which have passed the graph gate."""

    folder: Path
    stages: Stages
    spec: StreamingSpec


FlatGraphs = Callable[[str], Graphs]


def stages_and_spec(checkpoint: Checkpoint, precision: str) -> tuple[Stages, StreamingSpec]:
    """Return the stages in `precision` and what the configs contain."""
    stages = tensorrt_stages(checkpoint, FRAMES, precision)
    options = ExportOptions(
        checkpoint.name, chunk_ms=CHUNK_MS, runtime="tensorrt", precision=precision
    )
    return stages, spec_of(checkpoint, stages, options)
