"""Compare files with adapters to `transformers` with the adapters merged into its weights.

Files with different adapters, and with none, run in the same batches, as on a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.formats.onnx_file import ADAPTER_SLOTS, adapter_pools
from export.formats.onnx_stage import Arrays, open_session, open_stateless
from export.formats.packed_adapters import PackedAdapters, Parts
from export.formats.utterance_program import open_utterance_program
from export.offline.chain import OfflineChain, RunOfflineStage
from export.offline.reference import transcribe
from export.offline.spec import OfflineSpec
from export.parity import Comparison, Parity, evaluate
from export.spec import ADAPTED, StageSpec


def check_adapters(
    merged: Sequence[Checkpoint],
    adapters: Sequence[Parts],
    folder: Path,
    spec: OfflineSpec,
    utterances: Sequence[NDArray[np.float32]],
) -> Parity:
    """Compare the stages in `folder` with the reference, each utterance with each adapter.

    Args:
        merged: for each of `adapters`, the checkpoint with that adapter merged.

    Raises:
        ParityFailed: the message names the difference.
    """
    references = [result for one in merged for result in transcribe(one, utterances)]
    speech = [samples for _ in merged for samples in utterances]
    packed = PackedAdapters.of_each(adapters, len(utterances))
    open_stage = open_utterance_program if spec.fused else _open_stage
    chain = OfflineChain(folder, spec, partial(open_stage, pools=packed.pools))
    comparison = Comparison(
        references=references,
        together=chain.transcribe(speech, adapters=packed.slots),
        alone=chain.transcribe(speech, adapters=packed.slots, together=False),
    )
    return evaluate(comparison, speech, spec.precision)


def _open_stage(path: Path, spec: StageSpec, pools: Parts) -> RunOfflineStage:
    """Return a stage as a function `(values, length, slots) -> outputs`.

    `slots` are the slots of the utterances' adapters in `pools`; a stage without adapters ignores
    them.
    """
    if not spec.adapters:
        plain = open_stateless(path, spec)
        return lambda values, length, slots: plain(values, length)
    session = open_session(path.parent / ADAPTED / path.name)
    names = [*(tensor.name for tensor in spec.inputs), ADAPTER_SLOTS]
    feed = {
        name: pools[role] for name, role in zip(adapter_pools(spec), spec.adapters, strict=True)
    }

    def run(*inputs: NDArray[Any]) -> Arrays:
        return session.run(None, feed | dict(zip(names, inputs, strict=True)))

    return run
