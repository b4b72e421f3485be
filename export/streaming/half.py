"""Prepare half precision for streaming on torch: rescale layers if needed, check for overflow.

The modules that become programs run here operation by operation, so that every value can be
inspected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.formats.parts import parts_of
from export.formats.pooled_stage import PooledStage
from export.formats.torch_file import fused
from export.precision.headroom import headroom_factors, rescale
from export.precision.ranges import HalfRange, half_range, long_utterances
from export.spec import StageSpec
from export.stages.half import DTYPES, Stages
from export.streaming.chain import Chain
from export.streaming.spec import StreamingSpec

Speech = Sequence[NDArray[np.float32]]


def rescaled(
    stages: Stages, spec: StreamingSpec, precision: str, speech: Speech
) -> tuple[Stages, dict[str, float]]:
    """Return float32 stages that fit `precision`, and the factors of rescaled layers.

    Args:
        spec: the spec of `stages`, in float32.
        speech: real speech on which the layers' outputs are measured, samples [N] at 16 kHz.
    """
    if DTYPES[precision][0] != "FP16":
        return stages, {}
    chain = rounded_chain(stages, spec, len(speech))
    factors = headroom_factors(stages, lambda: chain.transcribe(speech))
    return rescale(stages, factors), factors


def range_of(stages: Stages, spec: StreamingSpec, speech: Speech) -> HalfRange:
    """Return the range of half stages on minutes of speech with chained state.

    Raises:
        ParityFailed: a half tensor overflows or nearly does; the message names its operator.
    """
    utterances = long_utterances(speech)
    chain = rounded_chain(stages, spec, len(utterances))
    _, found = half_range(lambda: chain.transcribe(utterances), spec.precision)
    return found


def rounded_chain(stages: Stages, spec: StreamingSpec, streams: int) -> Chain:
    """Return the chain of the modules that become programs, in the types of `stages`."""
    by_name = dict(zip((stage.name for stage in spec.stages), stages, strict=True))

    def open_stage(path: Path, stage: StageSpec, streams: int) -> PooledStage:
        parts = {part.name: part.module for part in parts_of(fused([by_name[stage.name]]), stage)}
        return PooledStage(parts.__getitem__, stage, streams)

    return Chain(Path(), replace(spec, layout="stages"), streams, open_stage)
