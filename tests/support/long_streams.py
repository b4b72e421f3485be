"""Decoders of streams that have run for weeks, which no test has the time to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.stages.frame_count import SPAN_FRAMES

FRAMES_BEFORE = 2**24 - 3
"""Three frames before float32 has no next whole number, and before the end of a span."""

Array = NDArray[Any]


def assert_frames_are_exact(
    step: Callable[[Sequence[Array]], Sequence[Array]], states: Any, *chunk_shape: int
) -> None:
    """Run two streams with the same input, of which the second has `FRAMES_BEFORE` behind it.

    Args:
        step: takes one chunk of both; returns TOKENS, TOKEN_FRAMES and more.
        states: the decoder's state of both, [2, width], still zeros; a view of what `step` uses.
        chunk_shape: of the first input; the second is its length.
    """
    states[1, 1], states[1, 2] = divmod(FRAMES_BEFORE, SPAN_FRAMES)
    chance = np.random.default_rng(0)
    length = np.full((2, 1), chunk_shape[0], np.int32)
    latest = 0
    for _ in range(10):
        chunk = chance.normal(0, 1, (1, *chunk_shape)).astype(np.float32)
        tokens, frames, *_ = step([np.concatenate([chunk, chunk]), length])
        np.testing.assert_array_equal(tokens[0], tokens[1])
        emitted = tokens[0] >= 0
        assert (frames[1, emitted] - frames[0, emitted] == FRAMES_BEFORE).all()
        latest = max([latest, *frames[0, emitted]])
    assert FRAMES_BEFORE + latest > 2**24, "the test needs tokens of late frames"
