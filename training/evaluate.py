"""Compute the word error rate of a checkpoint on the test sets, with `transformers`.

Texts are compared in lower case without punctuation (`text.normalize`), with numbers in words. Only
the model card quotes these figures; no choice is based on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoProcessor, NemotronAsrStreamingForRNNT

from training.decode import transcribe, word_error_rate
from training.features import Utterance, log_mel, read_audio, read_manifest


@dataclass(frozen=True)
class Score:
    """Result on one test set; `transcripts` pairs each reference with the model's text."""

    name: str
    words: int
    wer: float
    transcripts: list[tuple[str, str]]


def evaluate(checkpoint: Path, test_sets: Path, lookahead: int) -> Iterator[Score]:
    """Evaluate every folder under `test_sets` that has a manifest."""
    model = NemotronAsrStreamingForRNNT.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoProcessor.from_pretrained(checkpoint).tokenizer
    for manifest in sorted(test_sets.glob("*/manifest.tsv")):
        recordings = read_manifest(manifest.parent)
        spoken = [Utterance(log_mel(read_audio(r.path)), r.text) for r in recordings]
        references = [utterance.text for utterance in spoken]
        texts = transcribe(model, tokenizer, spoken, lookahead)
        yield Score(
            manifest.parent.name,
            sum(len(reference.split()) for reference in references),
            word_error_rate(references, texts),
            list(zip(references, texts, strict=True)),
        )
