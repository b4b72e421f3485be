"""Find places where the reference model was undecided: its two best logits were nearly equal.

The weights of a random checkpoint are random, and in thousands of steps some two logits lie closer
together than two orders of float32 sums do. There, and only there, another runtime may decide
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint

TIED = 2e-3
"""Largest gap of a tie, for logits of order 10: 1e-6 in the encoder's frames becomes this."""

TimedToken = tuple[int, int]
"""A token and its frame."""


def began_with_a_tie(
    checkpoint: Checkpoint,
    samples: np.ndarray,
    got: Sequence[TimedToken],
    expected: Sequence[TimedToken],
) -> bool:
    """Return True if there was a tie between the last common token and the first difference."""
    common = next(i for i in range(len(got) + 1) if got[i : i + 1] != expected[i : i + 1])
    first = expected[common - 1][1] if common else 0
    last = min(frame for _, frame in (*got[common : common + 1], *expected[common : common + 1]))
    gaps = _gaps(checkpoint, samples)
    return min(gap for frame, gap in gaps if first <= frame <= last) < TIED


@torch.inference_mode()
def _gaps(checkpoint: Checkpoint, samples: np.ndarray) -> list[tuple[int, float]]:
    """Return the frame of each step, and the distance between its two best logits."""
    features = checkpoint.processor.feature_extractor(
        [samples], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
    )
    features = {name: features[name] for name in ("input_features", "attention_mask")}
    if checkpoint.architecture == "ParakeetForCTC":
        logits = checkpoint.model(**features).logits[0]
        return list(enumerate(_gap(logits)))
    gaps: list[float] = []

    def note(joint: Any, inputs: Any, logits: torch.Tensor) -> None:
        parts = logits.reshape(-1).split([vocabulary, logits.shape[-1] - vocabulary])
        gaps.append(min(_gap(part[None])[0] for part in parts if len(part)))

    vocabulary = checkpoint.model.config.vocab_size
    steps = features["attention_mask"].shape[1] * checkpoint.model.max_symbols_per_step
    watching = checkpoint.model.joint.head.register_forward_hook(note)
    generated = checkpoint.model.generate(**features, max_length=steps)
    watching.remove()
    # The opening blank is no step.
    durations = generated.durations[0, 1:]
    frames = (durations.cumsum(dim=0) - durations).tolist()
    return list(zip(frames, gaps, strict=True))


def _gap(logits: torch.Tensor) -> list[float]:
    best, second = logits.topk(2, dim=-1).values.unbind(dim=-1)
    return (best - second).tolist()
