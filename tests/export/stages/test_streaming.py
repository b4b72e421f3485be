"""Stages against transformers: same features, encoder outputs and tokens, chunk by chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.audio import (
    FRAME_SAMPLES,
    LEAD_SAMPLES,
    SAMPLE_RATE_HZ,
    SUPPORTED_CHUNK_MS,
    chunk_count,
    frames_per_chunk,
)
from export.checkpoint import Checkpoint, load_checkpoint
from export.recordings import load_recordings
from export.stages.state import FlatStage, PooledStages, Stage
from export.streaming.config import MAX_ABS
from export.streaming.export import build_stages
from export.streaming.reference import ReferenceResult, transcribe


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(random_checkpoint))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Return half a minute of several speakers as one utterance."""
    return np.concatenate([recording.samples for recording in load_recordings()[1:]])


@torch.inference_mode()
def run_flat(stages: tuple[Stage, ...], samples: np.ndarray, frames: int) -> ReferenceResult:
    """Run one utterance through the stages in their flat form, chunk by chunk."""
    states = [torch.zeros(1, stage.layout.size) for stage in stages]
    extract, encode, decode = (FlatStage(stage) for stage in stages)
    chunk = FRAME_SAMPLES * frames
    mels, encodings, tokens, token_frames = [], [], [], []
    for index in range(chunk_count(len(samples), chunk)):
        stream = np.pad(samples, (LEAD_SAMPLES, chunk))[index * chunk : (index + 1) * chunk]
        valid = min(chunk, LEAD_SAMPLES + len(samples) - index * chunk)
        length = torch.tensor([[valid]], dtype=torch.int32)
        mel, mel_length, states[0] = extract(torch.from_numpy(stream)[None], length, states[0])
        encoded, encoded_length, states[1] = encode(mel, mel_length, states[1])
        found, at, _, count, _, states[2] = decode(encoded, encoded_length, states[2])
        mels.append(mel[0, : mel_length.item()].numpy())
        encodings.append(encoded[0, : encoded_length.item()].numpy())
        tokens += found[0, : count.item()].tolist()
        token_frames += at[0, : count.item()].tolist()
    return ReferenceResult(
        np.concatenate(mels)[7:], np.concatenate(encodings), tokens, token_frames
    )


def assert_same(got: ReferenceResult, expected: ReferenceResult) -> None:
    assert got.mel.shape == expected.mel.shape
    assert got.encoded.shape == expected.encoded.shape
    np.testing.assert_allclose(got.mel, expected.mel, atol=2e-3)
    np.testing.assert_allclose(got.encoded, expected.encoded, atol=1e-3)
    assert got.tokens == expected.tokens
    assert got.token_frames == expected.token_frames


@pytest.mark.parametrize("chunk_ms", SUPPORTED_CHUNK_MS)
def test_chained_chunks_equal_the_whole_utterance(
    checkpoint: Checkpoint, speech: np.ndarray, chunk_ms: int
) -> None:
    frames = frames_per_chunk(chunk_ms)
    [expected] = transcribe(checkpoint, [speech], lookahead=frames - 1)
    assert len(expected.tokens) > 100, "parity of tokens needs tokens"
    assert_same(run_flat(build_stages(checkpoint, frames), speech, frames), expected)


@pytest.mark.parametrize("chunk_ms", [80, 320])
def test_every_end_within_a_chunk(
    checkpoint: Checkpoint, speech: np.ndarray, chunk_ms: int
) -> None:
    frames = frames_per_chunk(chunk_ms)
    chunk = FRAME_SAMPLES * frames
    lengths = [0, 1, 159, 160, *range(chunk - 1600, 2 * chunk, 160), 2 * chunk - LEAD_SAMPLES]
    utterances = [speech[SAMPLE_RATE_HZ : SAMPLE_RATE_HZ + length] for length in lengths]
    stages = build_stages(checkpoint, frames)
    for samples, expected in zip(
        utterances, transcribe(checkpoint, utterances, lookahead=frames - 1), strict=True
    ):
        assert_same(run_flat(stages, samples, frames), expected)


@torch.inference_mode()
def test_pooled_form_equals_flat_form(checkpoint: Checkpoint) -> None:
    """Same outputs and same next state, for streams at different blocks of their ring."""
    torch.manual_seed(0)
    stage = build_stages(checkpoint, frames=4)[1]
    streams, slots = 3, torch.tensor([2, 0, 1])
    pool = torch.zeros(streams, stage.layout.rows, stage.layout.width)
    flat = pool.flatten(1).clone()
    for step in range(25):
        mel = torch.randn(streams, 32, 80)
        length = torch.full((streams, 1), 32, dtype=torch.int32)
        # The last stream sits out every other step, so the rings drift apart.
        active = streams if step % 2 else streams - 1
        *_, values, rows = PooledStages([stage])(
            mel[:active], length[:active], pool.flatten(0, 1), slots[:active]
        )
        pool[slots[:active, None], rows] = values
        *_, flat[:active] = FlatStage(stage)(mel[:active], length[:active], flat[:active])
    torch.testing.assert_close(pool[slots].flatten(1), flat)


@torch.inference_mode()
def test_a_stream_does_not_depend_on_its_batch(checkpoint: Checkpoint, speech: np.ndarray) -> None:
    torch.manual_seed(0)
    stage = FlatStage(build_stages(checkpoint, frames=4)[1])
    mel = torch.randn(5, 32, 80)
    length = torch.tensor([[32], [32], [9], [0], [32]], dtype=torch.int32)
    state = torch.randn(5, stage.stage.layout.size) * 0.1
    state[:, :2] = torch.tensor([[3, 17], [0, 0], [16, 17], [1, 1], [5, 5]])
    together, _, _ = stage(mel, length, state)
    for row in range(5):
        alone, _, _ = stage(mel[row : row + 1], length[row : row + 1], state[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_features_of_the_loudest_audio_are_far_below_the_bound(checkpoint: Checkpoint) -> None:
    time_s = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tones = [np.cos(2 * np.pi * hertz * time_s) for hertz in (0, 100, 1_000, 4_000, 7_900, 8_000)]
    noise = np.sign(np.random.default_rng(0).normal(size=SAMPLE_RATE_HZ))
    loudest = [MAX_ABS["AUDIO"] * wave.astype(np.float32) for wave in (*tones, noise)]
    features = checkpoint.processor.feature_extractor(
        loudest, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
    )
    assert 10 < features.input_features.abs().max() < MAX_ABS["MEL"] / 2
