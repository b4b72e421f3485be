"""Check the tokens or labels that a request asks to convert to text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .endings import passed_on
from .errors import ChunkError, InvalidChunk

Arrays = Mapping[str, npt.NDArray[Any]]

MAX_TOKENS = 20_000
"""More than any utterance that clients send in one request contains."""


def reject_tokens(arrays: Arrays) -> ChunkError | None:
    """Return an error unless TOKENS [B, M] and TOKEN_COUNT [B, 1] can be converted."""
    tokens, counts = arrays["TOKENS"], arrays["TOKEN_COUNT"][:, 0]
    for count in counts:
        if error := passed_on(int(count)):
            return error
    most = min(tokens.shape[1], MAX_TOKENS)
    wrong = counts[(counts < 0) | (counts > most)]
    if len(wrong):
        return InvalidChunk(f"TOKEN_COUNT must lie in 0..{most}, not {wrong[0]}")
    valid = np.arange(tokens.shape[1]) < counts[:, np.newaxis]
    negative = tokens[valid & (tokens < 0)]
    if len(negative):
        return InvalidChunk(f"TOKENS must be ids of tokens, 0 or more, not {negative[0]}")
    return None


def reject_labels(arrays: Arrays) -> ChunkError | None:
    """Return an error unless FRAME_TOKENS and FRAME_LOGPROBS [B, T] can be converted."""
    labels, logprobs = arrays["FRAME_TOKENS"], arrays["FRAME_LOGPROBS"]
    if labels.shape != logprobs.shape:
        return InvalidChunk(
            f"FRAME_TOKENS and FRAME_LOGPROBS must have one shape, not {list(labels.shape)} and "
            f"{list(logprobs.shape)}"
        )
    if labels.shape[1] > MAX_TOKENS:
        return InvalidChunk(f"expected at most {MAX_TOKENS} frames, not {labels.shape[1]}")
    if labels.size and labels.min() < 0:
        return InvalidChunk(f"FRAME_TOKENS must be labels, 0 or more, not {labels.min()}")
    return None
