"""Lengths of stages whose input has more than one dimension per row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.backends.earshot.earshot_runtime.checks import AudioEnds, ContentChecks
from server.backends.earshot.earshot_runtime.spec import StageSpec
from tests.support.toy_stages import model_config

FRAMES, BINS = 8, 80


@pytest.fixture
def spec(toy_repository: Path) -> StageSpec:
    """Takes FRAMES frames of BINS values, as stages behind the first do."""
    config = model_config(toy_repository, "summer")
    config["input"][0]["dims"] = [str(FRAMES), str(BINS)]
    return StageSpec.from_model_config(config)


def _inputs(*lengths: int) -> dict[str, np.ndarray]:
    return {
        "AUDIO": np.zeros((len(lengths), FRAMES, BINS), np.float32),
        "AUDIO_LENGTH": np.array(lengths, np.int32)[:, np.newaxis],
    }


def test_a_length_counts_frames_not_values(spec: StageSpec) -> None:
    errors = ContentChecks(spec).reject(_inputs(0, 8, 9, 80, 2**31 - 1, -1))
    assert sorted(errors) == [2, 3, 4, 5]
    assert str(errors[4]) == "AUDIO_LENGTH must lie in 0..8, not 2147483647"


def test_a_value_in_any_dimension_is_bounded(spec: StageSpec) -> None:
    inputs = _inputs(8, 8, 8)
    inputs["AUDIO"][1, 7, 79] = -8.5
    assert list(ContentChecks(spec).reject(inputs)) == [1]


def test_frames_after_a_short_chunk_are_refused(spec: StageSpec) -> None:
    ends = AudioEnds(spec, capacity=4)
    slots, starts = np.array([3, 1]), np.array([False, False])
    ends.store(_inputs(8, 7), slots)
    assert list(ends.reject(_inputs(8, 8), slots, starts)) == [1]
    assert not ends.reject(_inputs(0, 0), slots, starts)
    assert not ends.reject(_inputs(8, 8), slots, ~starts)
