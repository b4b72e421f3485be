"""Random models for capacity: they speak about as much as people do, and are the same each time."""

from __future__ import annotations

import pytest
import torch

from export import random_model
from export.checkpoint import Checkpoint
from export.random_model import Size, random_checkpoint

TINY = Size(1, 32, 2, 64, 1, 80, 8)


@pytest.fixture(scope="module")
def made() -> tuple[Checkpoint, list[float]]:
    """A checkpoint, and the rates of tokens that were tried for it."""
    rates: list[float] = []
    measure = random_model.tokens_per_second

    def noting(model: object, encoded: torch.Tensor) -> float:
        rates.append(measure(model, encoded))
        return rates[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(random_model.SIZES, "tiny", TINY)
        patch.setattr(random_model, "tokens_per_second", noting)
        return random_checkpoint("tiny"), rates


def test_real_speech_brings_about_four_tokens_a_second(
    made: tuple[Checkpoint, list[float]],
) -> None:
    _, rates = made
    assert rates[-1] == pytest.approx(random_model.TOKENS_PER_SECOND, abs=1.0)


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
