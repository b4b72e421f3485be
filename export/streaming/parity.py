"""Compare exported streaming stages with `transformers` on real speech, their state chained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.formats.onnx_stage import OnnxStage
from export.parity import Comparison, Parity, evaluate
from export.streaming.chain import Chain, OpenStage
from export.streaming.reference import transcribe
from export.streaming.spec import StreamingSpec


def check_parity(
    checkpoint: Checkpoint,
    folder: Path,
    spec: StreamingSpec,
    utterances: Sequence[NDArray[np.float32]],
    open_stage: OpenStage = OnnxStage,
) -> Parity:
    """Compare the stages in `folder` with the reference on `utterances` (samples [N], 16 kHz).

    Args:
        open_stage: opens a stage in the runtime that will serve it.

    Raises:
        ParityFailed: the message names the stage that differs and the difference.
    """
    references = transcribe(checkpoint, utterances, lookahead=spec.frames - 1)
    together = Chain(folder, spec, len(utterances), open_stage).transcribe(utterances)
    alone = Chain(folder, spec, len(utterances), open_stage).transcribe_alone(utterances)
    comparison = Comparison(references=references, together=together, alone=alone)
    if spec.layout == "stages":
        stages = Chain(folder, spec, len(utterances), open_stage)
        comparison = replace(
            comparison,
            mels=[result.mel[0] for result in together],
            encoded=stages.encode([reference.mel for reference in references]),
            decoded=stages.decode([reference.encoded for reference in references]),
        )
    return evaluate(comparison, utterances, spec.precision)
