"""Normalization, and the round trip of text through the tokenizer that the checkpoint ships."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, NemotronAsrStreamingForRNNT
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.model import VOCAB_SIZE, create_model, create_processor, save_checkpoint
from training.text import BLANK_TOKEN, PAD_TOKEN_ID, normalize, text_of, train_tokenizer

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "demo"
SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "don't look now but the fox's gone",
    "zero one two three four five six seven eight nine",
    "pack my box with five dozen liquor jugs",
    "a mad boxer shot a quick gloved jab to the jaw of his dizzy opponent",
]


@pytest.fixture(scope="module")
def tokenizer() -> ParakeetTokenizer:
    return train_tokenizer(SENTENCES, vocab_size=80)


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("Hello,  World!", "hello world"),
        ("It's 'quoted' text", "it's quoted text"),
        ("naïve café", "naive cafe"),
        ("--", ""),
    ],
)
def test_normalize(raw: str, normal: str) -> None:
    assert normalize(raw) == normal


def test_text_survives_the_tokenizer(tokenizer: ParakeetTokenizer) -> None:
    for sentence in SENTENCES:
        ids = tokenizer(sentence)["input_ids"]
        assert PAD_TOKEN_ID not in ids
        assert text_of(tokenizer, ids) == sentence


def test_blank_is_the_last_id_and_no_text(tokenizer: ParakeetTokenizer) -> None:
    blank = tokenizer.convert_tokens_to_ids(BLANK_TOKEN)
    assert blank == len(tokenizer) - 1
    ids: Any = tokenizer(SENTENCES[0])["input_ids"]
    spelled: Any = [blank]
    for piece in ids:
        spelled += [piece, blank]
    assert text_of(tokenizer, spelled) == SENTENCES[0]


def test_too_few_sentences_for_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="expected 499 pieces"):
        train_tokenizer(SENTENCES[:1], vocab_size=500)


def test_processor_gives_blank_and_labels(tokenizer: ParakeetTokenizer) -> None:
    processor = create_processor(tokenizer)
    inputs = processor(np.zeros(1600, np.float32), text=SENTENCES[0], sampling_rate=16_000)
    labels = tokenizer(SENTENCES[0])["input_ids"]
    assert inputs["labels"].tolist() == [labels]
    assert inputs["decoder_input_ids"].tolist() == [[processor.blank_token_id, *labels]]


@pytest.mark.skipif(not CHECKPOINT.exists(), reason="no committed checkpoint yet")
def test_committed_checkpoint_loads_like_published_ones() -> None:
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    model = NemotronAsrStreamingForRNNT.from_pretrained(CHECKPOINT)
    assert processor.blank_token_id == model.config.blank_token_id == VOCAB_SIZE - 1
    assert len(processor.tokenizer) == model.config.vocab_size
    assert processor.supported_num_lookahead_tokens == [13, 6, 3, 1, 0]
    assert 8e6 < model.num_parameters() < 15e6
    assert (CHECKPOINT / "model.safetensors").stat().st_size < 32 * 2**20
    assert next(model.parameters()).dtype.itemsize == 4


def test_saved_checkpoint_loads_as_saved(tmp_path: Path, tokenizer: ParakeetTokenizer) -> None:
    model = create_model(seed=3)
    save_checkpoint(model, tokenizer, tmp_path / "checkpoint")
    loaded = NemotronAsrStreamingForRNNT.from_pretrained(tmp_path / "checkpoint")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name
