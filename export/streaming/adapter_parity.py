"""Compare streams with adapters to `transformers` with the adapters merged into its weights.

Streams with different adapters, and with none, run in the same batches, as on a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.formats.open_stage import open_stage
from export.formats.packed_adapters import PackedAdapters, Parts
from export.parity import Comparison, Parity, evaluate
from export.streaming.chain import Chain
from export.streaming.reference import transcribe
from export.streaming.spec import StreamingSpec


def check_adapters(
    merged: Sequence[Checkpoint],
    adapters: Sequence[Parts],
    folder: Path,
    spec: StreamingSpec,
    utterances: Sequence[NDArray[np.float32]],
) -> Parity:
    """Compare the stages in `folder` with the reference, each utterance with each adapter.

    Args:
        merged: for each of `adapters`, the checkpoint with that adapter merged.

    Raises:
        ParityFailed: the message names the difference.
    """
    lookahead = spec.frames - 1
    references = [
        result
        for checkpoint in merged
        for result in transcribe(checkpoint, utterances, lookahead=lookahead)
    ]
    speech = [samples for _ in merged for samples in utterances]
    packed = PackedAdapters.of_each(adapters, len(utterances))
    open_adapted = partial(open_stage, spec.runtime, adapters=packed)
    together, alone = (Chain(folder, spec, len(speech), open_adapted) for _ in range(2))
    comparison = Comparison(
        references=references,
        together=together.transcribe(speech),
        alone=alone.transcribe_alone(speech),
    )
    return evaluate(comparison, speech, spec.precision)
