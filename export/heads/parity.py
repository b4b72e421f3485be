"""Compare exported heads with attention over the frames of `transformers`, after every chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint
from export.errors import ParityFailed
from export.formats.open_stage import open_stage
from export.heads.files import Head
from export.heads.spec import HeadsSpec
from export.parity import TOKEN_DIFFERENCE
from export.stages.heads import HeadWeights
from export.streaming.chain import Chain, RunningStage
from export.streaming.reference import encode

Frames = NDArray[np.float32]

STAGE_TOLERANCE = 1e-4
"""Tolerance of a probability for the same frames, which are summed in another order."""
CHAIN_TOLERANCE = 5e-3
"""Tolerance of a probability after the served encoder, whose frames have their own tolerance."""


@dataclass(frozen=True)
class HeadParity:
    """Sizes of a comparison and the differences that it found, as they go into the manifest."""

    audio_seconds: float
    utterances: int
    labels: int
    """Number of labels, one for each head and chunk."""
    stage_max_difference: float
    """Largest difference of probabilities, for the stage alone on the reference's frames."""
    chain_max_difference: float
    """Largest difference of probabilities, after the served encoder."""
    chain_label_difference: float
    """Share of labels, after the served encoder, that are not the reference's most likely ones."""

    def as_dict(self) -> dict[str, float | int]:
        """Return the entries for the manifest."""
        return asdict(self)


def check_heads(
    checkpoint: Checkpoint,
    heads: Sequence[Head],
    folder: Path,
    repository: Path,
    spec: HeadsSpec,
    utterances: Sequence[NDArray[np.float32]],
) -> HeadParity:
    """Compare the stage in `folder`, after the base in `repository`, with the reference.

    Args:
        utterances: samples [N], 16 kHz.

    Raises:
        ParityFailed: the message names what differs and the difference.
    """
    frames = spec.base.frames
    references = encode(checkpoint, utterances, lookahead=frames - 1)
    chain = Chain(repository, spec.base, len(utterances), partial(open_stage, spec.runtime))
    served = chain.encode([reference.mel for reference in references])
    expected = [_expected(heads, reference.encoded, frames) for reference in references]
    exact = [_cut(reference.encoded, frames) for reference in references]
    model = folder / spec.stage.name / "1" / "model.onnx"

    def labelled(chunks: Sequence[Sequence[Frames]]) -> list[Labelled]:
        return _labelled(open_stage(spec.runtime, model, spec.stage, len(chunks)), spec, chunks)

    stage = _compare(expected, labelled(exact), STAGE_TOLERANCE)
    chunks = [_cut(encoded, frames) for encoded in served]
    behind = _compare(expected, labelled(chunks), CHAIN_TOLERANCE)
    parity = HeadParity(
        audio_seconds=round(sum(map(len, utterances)) / SAMPLE_RATE_HZ, 2),
        utterances=len(utterances),
        labels=len(heads) * sum(map(len, exact)),
        stage_max_difference=stage.probability,
        chain_max_difference=behind.probability,
        chain_label_difference=behind.labels,
    )
    _check_limits(parity, spec.precision)
    return parity


def _check_limits(parity: HeadParity, precision: str) -> None:
    def refuse(what: str, got: float, allowed: float) -> None:
        if not got <= allowed:  # true for NaN
            raise ParityFailed(
                f"{what} differ from transformers by {got:.3g}, allowed {allowed:.3g}"
            )

    refuse("probabilities of the heads", parity.stage_max_difference, STAGE_TOLERANCE)
    if precision == "fp32":
        refuse(
            "probabilities behind the served encoder", parity.chain_max_difference, CHAIN_TOLERANCE
        )
    allowed = TOKEN_DIFFERENCE[precision]
    refuse("labels behind the served encoder", parity.chain_label_difference, allowed)


def probabilities(head: HeadWeights, encoded: Tensor) -> Tensor:
    """Return the probability of each label for all frames [E, D] of a recording, with E >= 1."""
    scores = encoded @ head.query.T + head.query_bias
    bounded = head.score_bound * torch.tanh(scores / head.score_bound)
    means = bounded.softmax(dim=0).T @ encoded
    return ((head.weight * means).sum(dim=(1, 2)) + head.bias).softmax(dim=0)


def _expected(heads: Sequence[Head], encoded: Frames, frames: int) -> list[list[Tensor]]:
    """Return the probabilities of each head after each chunk, from all frames so far."""
    ends = range(frames, len(encoded) + frames, frames)
    until = [torch.from_numpy(encoded[:end]) for end in ends]
    return [[probabilities(head.weights, part) for head in heads] for part in until]


def _cut(encoded: Frames, frames: int) -> list[Frames]:
    return [encoded[start : start + frames] for start in range(0, len(encoded), frames)]


Labelled = list[tuple[NDArray[np.int32], NDArray[np.float32]]]
"""Label and probability of each head, after each chunk of an utterance."""


def _labelled(
    stage: RunningStage, spec: HeadsSpec, chunks: Sequence[Sequence[Frames]]
) -> list[Labelled]:
    """Return the stage's outputs for the valid frames of every chunk, in one batch."""
    results: list[Labelled] = [[] for _ in chunks]
    for step in range(max(map(len, chunks))):
        slots = [slot for slot, own in enumerate(chunks) if step < len(own)]
        values = np.zeros((len(slots), spec.base.frames, spec.base.encoded_size), np.float32)
        lengths = np.array([[len(chunks[slot][step])] for slot in slots], np.int32)
        for row, slot in enumerate(slots):
            values[row, : lengths[row, 0]] = chunks[slot][step]
        labels, likely = stage.step([values, lengths], np.array(slots))
        for row, slot in enumerate(slots):
            results[slot].append((labels[row], likely[row]))
    return results


@dataclass(frozen=True)
class _Difference:
    probability: float
    labels: float


def _compare(
    expected: Sequence[list[list[Tensor]]], got: Sequence[Labelled], tolerance: float
) -> _Difference:
    """Compare after every chunk; of two equally likely labels, either is accepted."""
    largest, wrong, count = 0.0, 0, 0
    for reference, labelled in zip(expected, got, strict=True):
        # A last chunk without frames does not change the labels.
        for each, (labels, likely) in zip(reference, labelled, strict=False):
            for head, given, probability in zip(each, labels, likely, strict=True):
                largest = max(largest, abs(float(head[int(given)]) - float(probability)))
                wrong += float(head.max() - head[int(given)]) > tolerance
                count += 1
    return _Difference(largest, wrong / max(1, count))
