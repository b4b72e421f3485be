"""Streaming stages in the form that TensorRT takes: half precision, and no loop."""

from __future__ import annotations

from export.checkpoint import Checkpoint
from export.stages.half import Stages, half_stages
from export.stages.unrolled_decoder import UnrolledDecoder
from export.streaming.export import build_stages


def tensorrt_stages(checkpoint: Checkpoint, frames: int, precision: str) -> Stages:
    """Return the stages in `precision`, with the straight-line decoder."""
    return half_stages(build_stages(checkpoint, frames, UnrolledDecoder), precision)
