"""Measure the effect of half precision on tokens, and how close it is to overflow, without a GPU.

The stages run in torch, which rounds every result to its type in the graph, and their ONNX files in
ONNX Runtime, which on the CPU rounds only some results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.audio import SAMPLE_RATE_HZ
from export.parity import token_difference
from export.precision.ranges import HalfRange, half_range
from export.stages.state import Stage
from export.streaming.chain import Chain, OpenStage
from export.streaming.reference import ReferenceResult
from export.streaming.spec import StreamingSpec
from export.tensorrt.flat import open_onnx, opener_of


@dataclass(frozen=True)
class Numerics(HalfRange):
    """Measurements of half precision over real speech with chained state, for the manifest."""

    audio_seconds: float
    token_difference: float
    """Edits per token of the float32 reference, each tensor rounded to its type in the graph."""
    onnx_token_difference: float | None
    """The same for the ONNX files in ONNX Runtime; None for bf16, which it lacks."""


def measure(
    folder: Path,
    stages: Sequence[Stage],
    spec: StreamingSpec,
    utterances: Sequence[NDArray[np.float32]],
    references: Sequence[ReferenceResult],
    open_exported: OpenStage = open_onnx,
) -> Numerics:
    """Run half stages over `utterances` [N], 16 kHz, chunk by chunk, and compare the tokens.

    Args:
        folder: the folder of their ONNX files.
        open_exported: opens these files.

    Raises:
        ParityFailed: a half tensor overflows or nearly does; the message names its operator.
    """
    apart = replace(spec, layout="stages")
    rounded = Chain(Path(), apart, len(utterances), opener_of(stages, spec))
    results, found = half_range(lambda: rounded.transcribe(utterances), spec.precision)
    return Numerics(
        audio_seconds=round(sum(map(len, utterances)) / SAMPLE_RATE_HZ, 2),
        token_difference=token_difference([r.tokens for r in results], references),
        onnx_token_difference=None
        if spec.precision == "bf16"
        else _of_onnx(Chain(folder, spec, len(utterances), open_exported), utterances, references),
        largest=found.largest,
        limit=found.limit,
    )


def _of_onnx(
    exported: Chain,
    utterances: Sequence[NDArray[np.float32]],
    references: Sequence[ReferenceResult],
) -> float:
    results = exported.transcribe(utterances)
    return token_difference([result.tokens for result in results], references)
