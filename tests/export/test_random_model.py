"""Random models for capacity: they speak about as much as people do, and are the same each time."""

from __future__ import annotations

import pytest
import torch

from export import random_model
from export.checkpoint import Checkpoint
from export.offline.reference import lookahead_of
from export.random_model import FILES, LIVE, Size, SpeechPieces, random_checkpoint
from export.recordings import load_recordings

TINY = Size(1, 32, 2, 64, 1, 80, 8)


def made_for(speech: SpeechPieces) -> tuple[Checkpoint, list[float]]:
    """Return a checkpoint, and the rates of tokens that were tried for it."""
    rates: list[float] = []
    measure = random_model.tokens_per_second

    def noting(model: object, encoded: torch.Tensor) -> float:
        rates.append(measure(model, encoded))
        return rates[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(random_model.SIZES, "tiny", TINY)
        patch.setattr(random_model, "tokens_per_second", noting)
        return random_checkpoint("tiny", speech), rates


@pytest.fixture(scope="module")
def made() -> tuple[Checkpoint, list[float]]:
    return made_for(LIVE)


def test_live_speech_brings_about_four_tokens_a_second(
    made: tuple[Checkpoint, list[float]],
) -> None:
    _, rates = made
    assert rates[-1] == pytest.approx(4, abs=1.0)


@torch.inference_mode()
def test_files_bring_about_three_tokens_a_second_from_their_first_frame() -> None:
    checkpoint, _ = made_for(FILES)
    model, features = checkpoint.model, checkpoint.processor.feature_extractor
    rates: list[float] = []
    for recording in load_recordings():
        mel = features([recording.samples], sampling_rate=16_000, return_tensors="pt")
        frames = model.encoder(mel.input_features, num_lookahead_tokens=lookahead_of(checkpoint))
        encoded = model.encoder_projector(frames.last_hidden_state)
        rates.append(random_model.tokens_per_second(model, encoded))
    assert sum(rates) / len(rates) == pytest.approx(3, abs=1.0)


def test_a_seed_gives_the_same_weights(
    made: tuple[Checkpoint, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(random_model.SIZES, "tiny", TINY)
    again = random_checkpoint("tiny")
    for name, weight in made[0].model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_every_token_has_a_text_and_every_chunk_is_supported(
    made: tuple[Checkpoint, list[float]],
) -> None:
    checkpoint, _ = made
    assert checkpoint.supported_chunk_ms == [80, 160, 320, 560, 1120]
    tokenizer = checkpoint.processor.tokenizer
    texts = [tokenizer.decode([token]) for token in range(1, random_model.VOCABULARY)]
    assert all(texts)
    assert len(set(texts)) > 0.9 * len(texts)
