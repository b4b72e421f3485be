"""Labels of frames to tokens, compared with an implementation by itertools."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from server.backends.earshot.earshot_runtime.ctc import collapse

BLANK = 3
ROWS = st.integers(1, 9).flatmap(
    lambda frames: st.lists(
        st.lists(st.integers(0, BLANK), min_size=frames, max_size=frames), min_size=1, max_size=4
    )
)


@given(ROWS)
def test_runs_become_tokens_and_blanks_nothing(rows: list[list[int]]) -> None:
    labels = np.array(rows, np.int32)
    logprobs = -np.arange(labels.size, dtype=np.float32).reshape(labels.shape)
    got = collapse(labels, logprobs, BLANK)
    for row, labels_of_row in enumerate(rows):
        runs = groupby(range(len(labels_of_row)), labels_of_row.__getitem__)
        expected = [(label, next(at)) for label, at in runs if label != BLANK]
        [count] = got["TOKEN_COUNT"][row]
        assert count == len(expected)
        assert got["TOKENS"][row].tolist() == padded([label for label, _ in expected], labels)
        frames = [frame for _, frame in expected]
        assert got["TOKEN_FRAMES"][row].tolist() == padded(frames, labels)
        assert got["TOKEN_LOGPROBS"][row, :count].tolist() == logprobs[row, frames].tolist()


def padded(values: list[int], like: np.ndarray) -> list[int]:
    return values + [-1] * (like.shape[1] - len(values))
