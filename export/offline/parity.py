"""Compare exported offline stages with `transformers` on real speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.formats.onnx_stage import open_stateless
from export.offline.chain import OfflineChain, OpenOfflineStage
from export.offline.reference import transcribe
from export.offline.spec import OfflineSpec
from export.parity import MEL_TOLERANCE, NORMALIZED_MEL_TOLERANCE, Comparison, Parity, evaluate


def check_offline_parity(
    checkpoint: Checkpoint,
    folder: Path,
    spec: OfflineSpec,
    utterances: Sequence[NDArray[np.float32]],
    open_stage: OpenOfflineStage = open_stateless,
) -> Parity:
    """Compare the stages in `folder` with the reference on `utterances` (samples [N], 16 kHz).

    Args:
        open_stage: opens a stage in the runtime that will serve it.

    Raises:
        ParityFailed: the message names the stage that differs and the difference.
    """
    references = transcribe(checkpoint, utterances)
    chain = OfflineChain(folder, spec, open_stage)
    together = chain.transcribe(utterances)
    alone = chain.transcribe(utterances, together=False)
    comparison = Comparison(references=references, together=together, alone=alone)
    if not spec.fused:
        comparison = replace(
            comparison,
            mels=[result.mel for result in together],
            encoded=chain.encode([reference.mel for reference in references]),
            decoded=chain.decode([reference.encoded for reference in references]),
        )
    tolerance = MEL_TOLERANCE if checkpoint.streams else NORMALIZED_MEL_TOLERANCE
    return evaluate(comparison, utterances, spec.precision, tolerance)
