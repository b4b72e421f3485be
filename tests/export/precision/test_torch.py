"""Float16 on torch and checkpoints with large activations: refused, unless layers are rescaled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import ParityFailed
from export.formats.pooled_stage import open_torch_stage
from export.formats.torch_file import export_torch
from export.install import replacing
from export.offline import half as offline_half
from export.offline.export import build_stages as build_offline_stages
from export.offline.export import spec_of as offline_spec_of
from export.options import ExportOptions
from export.recordings import load_recordings
from export.stages.half import half_stages
from export.stages.offline.half import half_stages as half_offline_stages
from export.streaming.export import build_stages, export_streaming, spec_of
from export.streaming.half import range_of, rescaled, rounded_chain
from tests.support.loud_checkpoints import louder
from tests.support.project import OfflineCheckpoint

FACTOR = 100_000
"""What is added to the residual stream of a small checkpoint is of order one."""
SPEECH = [recording.samples[:16_000] for recording in load_recordings()[:2]]
OPTIONS = ExportOptions("mine", chunk_ms=320, runtime="torch", precision="fp16")
EXACT = replace(OPTIONS, precision="fp32")


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(random_checkpoint))


def test_an_ordinary_checkpoint_is_left_alone(checkpoint: Checkpoint) -> None:
    stages = build_stages(checkpoint, OPTIONS.frames)
    same, factors = rescaled(stages, spec_of(checkpoint, stages, EXACT), "fp16", SPEECH)
    assert same is stages
    assert not factors


def test_live_streams_are_rescaled_where_float16_would_overflow(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """As the modules are, and as the program that a server opens."""
    loud = louder(checkpoint, FACTOR)
    stages = build_stages(loud, OPTIONS.frames)
    spec = spec_of(loud, stages, EXACT)
    overflowing = half_stages(stages, "fp16")
    with pytest.raises(
        ParityFailed, match=r"reaches \S+ at .*subsampling\.linear.*--precision bf16"
    ):
        range_of(overflowing, spec_of(loud, overflowing, OPTIONS), SPEECH)
    fitting, factors = rescaled(stages, spec, "fp16", SPEECH)
    assert {name.split(".")[-1] for name in factors} >= {"linear2", "output", "pointwise2"}
    half = half_stages(fitting, "fp16")
    half_spec = spec_of(loud, half, OPTIONS)
    found = range_of(half, half_spec, SPEECH)
    assert 1 < max(found.largest.values()) < found.limit / 4
    encoder = half_spec.stages[1]
    export_torch([half[1]], encoder, tmp_path, "fp16")
    exact, rounded = rounded_chain(stages, spec, 2), rounded_chain(half, half_spec, 2)
    program = open_torch_stage(tmp_path / "model.onnx", encoder, 2)
    frames = 8 * OPTIONS.frames
    mel = np.random.default_rng(3).normal(-8, 1, (2, frames, 80)).astype(np.float32)
    lengths, slots = np.full((2, 1), frames, np.int32), np.arange(2)
    for _ in range(2):
        expected, *encoded = (
            stage.step([mel, lengths], slots)[0]
            for stage in (exact.stages[1], rounded.stages[1], program)
        )
        assert max(differs(each, expected) for each in encoded) < 0.01


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", ["stages", "fused"])
def test_an_export_with_large_activations_passes_its_comparison(
    checkpoint: Checkpoint, tmp_path: Path, layout: str
) -> None:
    options = replace(OPTIONS, repository=tmp_path / "models", layout=layout)
    with replacing(options.repository) as new:
        parity = export_streaming(louder(checkpoint, FACTOR), options, new, lambda step: None)
    assert parity is not None
    assert parity.reference_tokens > 50
    manifest = options.repository / "asr_streaming" / "1" / "manifest.json"
    found = json.loads(manifest.read_text())["half_precision"]
    assert found["rescaled"]
    assert max(found["largest"].values()) < found["limit"] / 4


@pytest.mark.parametrize("kind", ["streaming", "ctc", "tdt"])
def test_whole_files_are_rescaled_where_float16_would_overflow(
    kind: str, offline_checkpoint: OfflineCheckpoint
) -> None:
    """The mask of scores, which is large on purpose, is no overflow."""
    ordinary = load_checkpoint(str(offline_checkpoint(kind)))
    spec = offline_spec_of(ordinary, OPTIONS)
    stages = build_offline_stages(ordinary, spec)
    same, factors = offline_half.rescaled(stages, spec, SPEECH)
    assert same is stages
    assert not factors
    found = offline_half.range_of(half_offline_stages(stages, "fp16"), spec, SPEECH)
    assert 1 < max(found.largest.values()) < 1000
    stages = build_offline_stages(louder(ordinary, FACTOR), spec)
    with pytest.raises(ParityFailed, match=r"reaches \S+ at .*subsampling\.linear"):
        offline_half.range_of(half_offline_stages(stages, "fp16"), spec, SPEECH)
    fitting, factors = offline_half.rescaled(stages, spec, SPEECH)
    assert factors
    found = offline_half.range_of(half_offline_stages(fitting, "fp16"), spec, SPEECH)
    assert max(found.largest.values()) < found.limit / 4


def differs(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative difference of two arrays."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
