"""Streaming stages in the form that TensorRT takes: half precision, and no loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.options import ExportOptions
from export.stages.half import DTYPES, Stages, half_stages
from export.stages.unrolled_decoder import UnrolledDecoder
from export.streaming.export import build_stages, spec_of
from export.tensorrt.headroom import with_headroom


def tensorrt_stages(checkpoint: Checkpoint, frames: int, precision: str) -> Stages:
    """Return the stages in `precision`, with the straight-line decoder."""
    return half_stages(build_stages(checkpoint, frames, UnrolledDecoder), precision)


def rescaled_stages(
    checkpoint: Checkpoint, options: ExportOptions, speech: Sequence[NDArray[np.float32]]
) -> tuple[Stages, dict[str, float]]:
    """Return the stages of an export, and the factors of layers that float16 could not hold.

    Args:
        speech: real speech on which the layers' outputs are measured, samples [N] at 16 kHz.
    """
    stages = build_stages(checkpoint, options.frames, UnrolledDecoder)
    factors: dict[str, float] = {}
    if DTYPES[options.precision][0] == "FP16":
        spec = spec_of(checkpoint, stages, replace(options, precision="fp32"))
        stages, factors = with_headroom(stages, spec, speech)
    return half_stages(stages, options.precision), factors
