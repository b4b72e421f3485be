"""Run the engine for whole utterances on torch, and read its answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
import torch

from export.streaming.reference import ReferenceResult
from server.backends.earshot.earshot_runtime.recorder import CudaRecorder, Plain, Recorder
from server.backends.earshot.earshot_runtime.torch_utterances import TorchUtterances
from tests.support.cpu_recorder import CpuRecorder

SHORT, LONG = 24 * 1280, 56 * 1280
"""Lengths that runs are padded to."""
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
RECORDERS: dict[str, type[Recorder]] = {
    "plain": Plain,
    "recorded": CpuRecorder,
    "cuda": CudaRecorder,
}


def run(
    engine: TorchUtterances,
    utterances: Sequence[np.ndarray],
    lengths: Sequence[int] | None = None,
    adapters: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Run utterances in one batch; `adapters` are the slots of theirs."""
    longest = max(map(len, utterances))
    audio = np.zeros((len(utterances), longest), np.float32)
    for row, samples in zip(audio, utterances, strict=True):
        row[: len(samples)] = samples
    counts = [len(samples) for samples in utterances] if lengths is None else lengths
    slots = None if adapters is None else np.array(adapters)
    return engine.run([audio, np.array(counts, np.int32)[:, None]], slots)


def tokens_of(outputs: Sequence[np.ndarray], row: int, blank: int | None) -> list[tuple[int, int]]:
    """Return the tokens of a row with their frames."""
    if blank is None:
        tokens, frames, _, counts = outputs
        count = counts[row, 0]
        assert (tokens[row, count:] == -1).all()
        return list(zip(tokens[row, :count].tolist(), frames[row, :count].tolist(), strict=True))
    labels = outputs[0][row].tolist()
    runs = [(label, next(run)) for label, run in groupby(range(len(labels)), labels.__getitem__)]
    return [(label, frame) for label, frame in runs if label != blank]


def expected_of(reference: ReferenceResult) -> list[tuple[int, int]]:
    return list(zip(reference.tokens, reference.token_frames, strict=True))
