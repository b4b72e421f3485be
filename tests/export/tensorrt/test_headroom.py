"""Float16 and checkpoints with large activations: rescaled where needed, equal in tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.checkpoint import Checkpoint
from export.errors import ParityFailed
from export.options import ExportOptions
from export.recordings import load_recordings
from export.streaming.export import spec_of
from export.streaming.reference import transcribe
from export.tensorrt.engine import check_parses
from export.tensorrt.export import write_graphs
from export.tensorrt.numerics import measure
from export.tensorrt.stages import rescaled_stages, tensorrt_stages
from tests.support.loud_checkpoints import louder
from tests.support.tensorrt_graphs import CHUNK_MS, FRAMES

FACTOR = 100_000
"""What is added to the residual stream of the small checkpoint is of order one."""


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    return [recording.samples for recording in load_recordings()[:4]]


def options(checkpoint: Checkpoint) -> ExportOptions:
    return ExportOptions(checkpoint.name, chunk_ms=CHUNK_MS, runtime="tensorrt", precision="fp16")


def test_an_ordinary_checkpoint_is_left_alone(
    many_tokens: Checkpoint, speech: list[np.ndarray]
) -> None:
    _, factors = rescaled_stages(many_tokens, options(many_tokens), speech[:1])
    assert not factors


@pytest.mark.slow
def test_large_activations_keep_their_tokens_with_chained_state(
    many_tokens: Checkpoint, speech: list[np.ndarray], tmp_path: Path
) -> None:
    """Float16 overflows, unless the layers are rescaled."""
    checkpoint = louder(many_tokens, FACTOR)
    references = transcribe(checkpoint, speech[:2], lookahead=FRAMES - 1)
    assert sum(len(reference.tokens) for reference in references) > 100
    spec = spec_of(checkpoint, tensorrt_stages(checkpoint, FRAMES, "fp16"), options(checkpoint))
    with pytest.raises(ParityFailed, match=r"reaches nan at \S+subsampling\.linear linear"):
        stages = tensorrt_stages(checkpoint, FRAMES, "fp16")
        measure(tmp_path, stages, spec, speech[:2], references)
    stages, factors = rescaled_stages(checkpoint, options(checkpoint), speech)
    assert factors
    write_graphs(tmp_path, stages, spec, [], lambda step: None)
    numerics = measure(tmp_path, stages, spec, speech[:2], references)
    assert numerics.token_difference < 0.05
    assert numerics.onnx_token_difference is not None
    assert numerics.onnx_token_difference < 0.05
    assert max(numerics.largest.values()) < 65504 / 4
    assert check_parses(tmp_path / "encoder" / "1" / "model.onnx", spec.stages[1]) > 100
