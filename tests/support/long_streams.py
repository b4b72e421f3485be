"""Decoders of streams that have run for weeks, which no test has the time to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.stages.frame_count import SPAN_FRAMES

PASSED_FRAMES = 2**24 - 4
"""A few frames later, float32 lacks the next whole number, and a span ends."""

Array = NDArray[Any]


def assert_frames_are_exact(
    step: Callable[[Sequence[Array]], Sequence[Array]], states: Any, *chunk_shape: int
) -> None:
    """Run two streams with the same input; after a chunk, `PASSED_FRAMES` pass in the second.

    Args:
        step: takes one chunk of both; returns TOKENS, TOKEN_FRAMES and more.
        states: the decoder's state of both, [2, width], still zeros; a view of what `step` uses.
        chunk_shape: of the first input; the second is its length.
    """
    chance = np.random.default_rng(0)
    length = np.full((2, 1), chunk_shape[0], np.int32)
    passed = latest = 0
    for _ in range(10):
        chunk = chance.normal(0, 1, (1, *chunk_shape)).astype(np.float32)
        tokens, frames, *_ = step([np.concatenate([chunk, chunk]), length])
        np.testing.assert_array_equal(tokens[0], tokens[1])
        emitted = tokens[0] >= 0
        assert (frames[1, emitted] - frames[0, emitted] == passed).all()
        latest = max([latest, *frames[1, emitted].tolist()])
        if not passed:
            passed = PASSED_FRAMES
            _let_pass(states[1])
    assert latest > 2**24, "the test needs tokens of late frames"


def _let_pass(state: Any) -> None:
    spans, frames = divmod(PASSED_FRAMES + int(state[1]), SPAN_FRAMES)
    state[0], state[1] = 1 + spans, frames
