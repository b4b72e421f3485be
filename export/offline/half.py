"""Prepare half precision for whole files on torch: rescale layers if needed, check the range.

The modules that become programs run here operation by operation, so that every value can be
inspected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.formats.utterance_program import open_utterance_parts
from export.offline.chain import OfflineChain, OfflineResult
from export.offline.spec import OfflineSpec
from export.precision.headroom import headroom_factors, rescale
from export.precision.ranges import HalfRange, half_range
from export.stages.half import DTYPES
from export.stages.offline.half import Stages

Speech = Sequence[NDArray[np.float32]]


def rescaled(stages: Stages, spec: OfflineSpec, speech: Speech) -> tuple[Stages, dict[str, float]]:
    """Return float32 stages that fit the precision of `spec`, and the factors of rescaled layers.

    Args:
        speech: real speech on which the layers' outputs are measured, samples [N] at 16 kHz.
    """
    if DTYPES[spec.precision][0] != "FP16":
        return stages, {}
    factors = headroom_factors(stages, _transcribing(stages, spec, speech))
    return rescale(stages, factors), factors


def range_of(stages: Stages, spec: OfflineSpec, speech: Speech) -> HalfRange:
    """Return the range of half stages on `speech`.

    Raises:
        ParityFailed: a half tensor overflows or nearly does; the message names its operator.
    """
    _, found = half_range(_transcribing(stages, spec, speech), spec.precision)
    return found


def _transcribing(
    stages: Stages, spec: OfflineSpec, speech: Speech
) -> Callable[[], list[OfflineResult]]:
    run = open_utterance_parts(stages, spec.max_mel_frames)
    chain = OfflineChain(Path(), spec, lambda path, stage: run)
    return lambda: chain.transcribe(speech)
