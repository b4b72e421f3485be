"""Streaming stages in the forms that TensorRT takes: half precision, with and without a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.options import ExportOptions
from export.stages.half import DTYPES, Stages, half_stages
from export.stages.unrolled_decoder import UnrolledDecoder
from export.streaming.export import build_stages, spec_of
from export.tensorrt.headroom import headroom_factors, rescale


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
        factors = headroom_factors(stages, spec, speech)
        stages = rescale(stages, spec, factors)
    return half_stages(stages, options.precision), factors


def looped_stages(
    checkpoint: Checkpoint, options: ExportOptions, factors: Mapping[str, float]
) -> Stages:
    """Return the stages with the decoder's loop, and the factors of `rescaled_stages`."""
    stages = build_stages(checkpoint, options.frames)
    spec = spec_of(checkpoint, stages, replace(options, precision="fp32"))
    # The one layer that has another name there.
    named = {name.replace(".stepped.", ".predictor."): value for name, value in factors.items()}
    return half_stages(rescale(stages, spec, named), options.precision)
