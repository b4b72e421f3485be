"""Collapse frame labels to tokens: merge repetitions, then drop blanks (Graves et al. 2006)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def collapse(
    labels: npt.NDArray[np.int32], logprobs: npt.NDArray[np.float32], blank: int
) -> dict[str, npt.NDArray[Any]]:
    """Return TOKENS, TOKEN_FRAMES, TOKEN_LOGPROBS [B, T], padded with -1, and TOKEN_COUNT [B, 1].

    The frame and the log-probability of a token are those of the first frame of its run.

    Args:
        labels: [B, T], the best label of each frame; blank after the end.
        logprobs: [B, T], the log-probability of each label.
        blank: the label of a frame without a token.
    """
    first = np.ones(labels.shape, np.bool_)
    first[:, 1:] = labels[:, 1:] != labels[:, :-1]
    rows, frames = np.nonzero(first & (labels != blank))
    count = np.bincount(rows, minlength=len(labels)).astype(np.int32)
    positions = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    columns = {
        "TOKENS": labels,
        "TOKEN_FRAMES": np.broadcast_to(np.arange(labels.shape[1], dtype=np.int32), labels.shape),
        "TOKEN_LOGPROBS": logprobs,
    }
    tokens: dict[str, npt.NDArray[Any]] = {}
    for name, values in columns.items():
        tokens[name] = np.full(labels.shape, -1, values.dtype)
        tokens[name][rows, positions] = values[rows, frames]
    return tokens | {"TOKEN_COUNT": count[:, np.newaxis]}
