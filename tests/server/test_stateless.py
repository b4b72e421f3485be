"""A stage without state."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.backends.earshot.earshot_runtime.chunks import Chunks
from tests.server.stages import stateless_stage


def test_requests_of_any_shape_are_answered_in_order(toy_repository: Path) -> None:
    arrays = [
        np.arange(rows * samples, dtype=np.float32).reshape(rows, samples)
        for rows, samples in [(1, 3), (2, 5), (3, 3), (1, 5), (1, 1)]
    ]
    count = len(arrays)
    chunks = Chunks([0] * count, [False] * count, [False] * count, [arrays])
    outcomes = stateless_stage(toy_repository).process(chunks)
    for array, outcome in zip(arrays, outcomes, strict=True):
        assert isinstance(outcome, tuple)
        np.testing.assert_array_equal(outcome[0], 2 * array)
