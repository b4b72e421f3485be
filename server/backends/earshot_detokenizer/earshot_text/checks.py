"""Check what a request asks to convert, before anything is computed from it.

An exception would fail the whole batch. So each request is checked, and refused, alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

MAX_TOKENS = 20_000
"""More than any utterance holds that clients send as one request."""


REFUSED, FAILED = -1, -2
"""Values of TOKEN_COUNT with which earlier stages pass on that they refused a last chunk."""


class EarlierStageFailed(Exception):
    """A stage before this one failed on the last chunk of the stream."""


class InvalidTokens(Exception):
    """The request's content breaks the rules; the message is for its sender."""


def check_tokens(arrays: Arrays) -> None:
    """Raise an error unless TOKENS [B, M] and TOKEN_COUNT [B, 1] can be converted."""
    tokens, counts = arrays["TOKENS"], arrays["TOKEN_COUNT"][:, 0]
    if FAILED in counts:
        raise EarlierStageFailed("a stage failed on the last chunk; the server's log says why")
    if REFUSED in counts:
        raise InvalidTokens(
            "the last chunk is refused, and its stream has ended: its samples hold NaN or are out "
            "of bounds, its length is impossible, or audio came after a chunk that was not full"
        )
    most = min(tokens.shape[1], MAX_TOKENS)
    wrong = counts[(counts < 0) | (counts > most)]
    if len(wrong):
        raise InvalidTokens(f"TOKEN_COUNT must lie in 0..{most}, not {wrong[0]}")
    valid = np.arange(tokens.shape[1]) < counts[:, np.newaxis]
    negative = tokens[valid & (tokens < 0)]
    if len(negative):
        raise InvalidTokens(f"TOKENS must be ids of tokens, 0 or more, not {negative[0]}")


def check_labels(arrays: Arrays) -> None:
    """Raise InvalidTokens unless FRAME_TOKENS and FRAME_LOGPROBS [B, T] belong together."""
    labels, logprobs = arrays["FRAME_TOKENS"], arrays["FRAME_LOGPROBS"]
    if labels.shape != logprobs.shape:
        raise InvalidTokens(
            f"FRAME_TOKENS and FRAME_LOGPROBS must have one shape, not {list(labels.shape)} and "
            f"{list(logprobs.shape)}"
        )
