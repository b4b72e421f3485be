"""Build streaming stages in the form that TensorRT needs: half precision, no loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.options import ExportOptions
from export.precision.headroom import headroom_factors, rescale
from export.stages.half import DTYPES, Stages, half_stages
from export.stages.unrolled_decoder import UnrolledDecoder
from export.streaming.chain import Chain
from export.streaming.export import build_stages, spec_of
from export.tensorrt.flat import opener_of


def tensorrt_stages(checkpoint: Checkpoint, frames: int, precision: str) -> Stages:
    """Return the stages in `precision`, with the straight-line decoder."""
    return half_stages(build_stages(checkpoint, frames, UnrolledDecoder), precision)


def rescaled_stages(
    checkpoint: Checkpoint, options: ExportOptions, speech: Sequence[NDArray[np.float32]]
) -> tuple[Stages, dict[str, float]]:
    """Return the stages of an export, and the factors of layers that would overflow float16.

    Args:
        speech: real speech on which the layers' outputs are measured, samples [N] at 16 kHz.
    """
    stages = build_stages(checkpoint, options.frames, UnrolledDecoder)
    factors: dict[str, float] = {}
    if DTYPES[options.precision][0] == "FP16":
        exact = replace(options, precision="fp32", layout="stages")
        spec = spec_of(checkpoint, stages, exact)
        chain = Chain(Path(), spec, len(speech), opener_of(stages, spec))
        factors = headroom_factors(stages, lambda: chain.transcribe(speech))
        stages = rescale(stages, factors)
    return half_stages(stages, options.precision), factors


def looped_stages(
    checkpoint: Checkpoint, options: ExportOptions, factors: Mapping[str, float]
) -> Stages:
    """Return the stages with the decoder's loop, rescaled by the factors of `rescaled_stages`."""
    # The only layer with a different name in the looped decoder.
    named = {name.replace(".stepped.", ".predictor."): value for name, value in factors.items()}
    stages = rescale(build_stages(checkpoint, options.frames), named)
    return half_stages(stages, options.precision)
