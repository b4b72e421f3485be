"""Tokens and labels of requests are checked one by one, whatever they hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.backends.earshot.earshot_runtime.errors import EarlierStageFailed, InvalidChunk
from server.backends.earshot.earshot_runtime.token_checks import reject_labels, reject_tokens


@pytest.mark.parametrize(
    ("tokens", "count", "message"),
    [
        ([1, -5, 3], 2, "TOKENS must be ids of tokens, 0 or more, not -5"),
        ([1, 2, 3], 4, "TOKEN_COUNT must lie in 0..3, not 4"),
        ([1, 2, 3], -9, "TOKEN_COUNT must lie in 0..3, not -9"),
        ([0] * 20_001, 20_001, "TOKEN_COUNT must lie in 0..20000, not 20001"),
    ],
)
def test_refusals_say_what_is_wrong(tokens: list[int], count: int, message: str) -> None:
    refusal = reject_tokens(_arrays(tokens, count))
    assert isinstance(refusal, InvalidChunk)
    assert str(refusal) == message


def test_a_failure_of_an_earlier_stage_is_not_the_fault_of_the_client() -> None:
    assert isinstance(reject_tokens(_arrays([1], -2)), EarlierStageFailed)
    assert "its stream has ended" in str(reject_tokens(_arrays([1], -1)))


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=12), st.integers(-(2**31), 2**31 - 1))
def test_accepted_requests_hold_only_ids(tokens: list[int], count: int) -> None:
    if reject_tokens(_arrays(tokens, count)):
        return
    assert 0 <= count <= len(tokens)
    assert all(token >= 0 for token in tokens[:count])


def test_labels_and_their_probabilities_have_one_shape() -> None:
    labels = np.zeros((1, 4), np.int32)
    logprobs = np.zeros((1, 4), np.float32)
    assert reject_labels({"FRAME_TOKENS": labels, "FRAME_LOGPROBS": logprobs}) is None
    refusal = reject_labels({"FRAME_TOKENS": labels, "FRAME_LOGPROBS": logprobs[:, :3]})
    assert "one shape, not [1, 4] and [1, 3]" in str(refusal)


def _arrays(tokens: list[int], count: int) -> dict[str, np.ndarray]:
    return {
        "TOKENS": np.array([tokens], np.int32).reshape(1, len(tokens)),
        "TOKEN_COUNT": np.array([[count]], np.int32),
    }
