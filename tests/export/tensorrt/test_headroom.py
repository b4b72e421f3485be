"""Float16 and checkpoints with large activations: rescaled where needed, equal in tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import ParityFailed
from export.options import ExportOptions
from export.recordings import load_recordings
from export.streaming.export import spec_of
from export.tensorrt.engine import check_parses
from export.tensorrt.export import half_numerics, write_graphs
from export.tensorrt.numerics import measure
from export.tensorrt.stages import rescaled_stages, tensorrt_stages
from tests.support.loud_checkpoints import louder
from tests.support.project import DEMO_CHECKPOINT
from tests.support.tensorrt_graphs import CHUNK_MS, FRAMES

FACTOR = 100_000
"""What is added to the residual stream of the small checkpoint is of order one."""


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    return [recording.samples[:16_000] for recording in load_recordings()[:1]]


def options(checkpoint: Checkpoint) -> ExportOptions:
    return ExportOptions(checkpoint.name, chunk_ms=CHUNK_MS, runtime="tensorrt", precision="fp16")


def test_an_ordinary_checkpoint_is_left_alone(
    many_tokens: Checkpoint, speech: list[np.ndarray]
) -> None:
    _, factors = rescaled_stages(many_tokens, options(many_tokens), speech)
    assert not factors


def test_large_activations_are_rescaled(many_tokens: Checkpoint, speech: list[np.ndarray]) -> None:
    checkpoint = louder(many_tokens, FACTOR)
    _, factors = rescaled_stages(checkpoint, options(checkpoint), speech)
    assert {name.rpartition(".")[2] for name in factors} >= {"linear2", "output", "pointwise2"}
    assert all(factor > 1 for factor in factors.values())


def test_float16_overflows_without(
    many_tokens: Checkpoint, speech: list[np.ndarray], tmp_path: Path
) -> None:
    checkpoint = louder(many_tokens, FACTOR)
    stages = tensorrt_stages(checkpoint, FRAMES, "fp16")
    spec = spec_of(checkpoint, stages, options(checkpoint))
    with pytest.raises(ParityFailed, match=r"reaches nan at \S+subsampling\.linear linear"):
        measure(tmp_path, stages, spec, speech, references=[])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("name", "factor"), [("many_tokens", FACTOR), ("demo", 100)])
def test_large_activations_keep_their_tokens_over_minutes_of_chained_state(
    name: str, factor: float, many_tokens: Checkpoint, tmp_path: Path
) -> None:
    """Of four streams, each with all recordings of this repository in a row."""
    speech = [recording.samples for recording in load_recordings()]
    base = many_tokens if name == "many_tokens" else load_checkpoint(str(DEMO_CHECKPOINT))
    checkpoint = louder(base, factor)
    stages, factors = rescaled_stages(checkpoint, options(checkpoint), speech)
    assert factors
    spec = spec_of(checkpoint, stages, options(checkpoint))
    write_graphs(tmp_path, stages, spec, [], lambda step: None)
    numerics = half_numerics(checkpoint, tmp_path, stages, spec, speech)
    assert numerics.audio_seconds > 120
    assert numerics.token_difference < 0.05
    assert numerics.onnx_token_difference is not None
    assert numerics.onnx_token_difference < 0.05
    assert max(numerics.largest.values()) < 65504 / 4
    assert check_parses(tmp_path / "encoder" / "1" / "model.onnx", spec.stages[1]) > 100
