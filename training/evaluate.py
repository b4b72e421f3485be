"""Compute the word error rate of a checkpoint on the test sets, with `transformers`.

Texts are compared in lower case without punctuation (`text.normalize`), with numbers in words.
These figures are only quoted in the model card; no choice is based on them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoProcessor, NemotronAsrStreamingForRNNT
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.corpora import read_tested
from training.decode import transcribe, word_error_rate
from training.features import Recording, Utterance, log_mel, read_audio, read_manifest


@dataclass(frozen=True)
class Score:
    """Result on one test set; `transcripts` pairs each reference with the model's text."""

    name: str
    words: int
    wer: float
    transcripts: list[tuple[str, str]]


def evaluate(checkpoint: Path, test_sets: Path, lookahead: int) -> Iterator[Score]:
    """Evaluate every folder under `test_sets` with a manifest, without recordings to train on."""
    model = NemotronAsrStreamingForRNNT.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoProcessor.from_pretrained(checkpoint).tokenizer
    for manifest in sorted(test_sets.glob("*/manifest.tsv")):
        spoken = _utterances(read_tested(manifest.parent))
        yield score(manifest.parent.name, model, tokenizer, spoken, lookahead)


def read_test_set(folder: Path) -> list[Utterance]:
    """Compute the features of a folder with a manifest."""
    return _utterances(read_manifest(folder))


def _utterances(recordings: list[Recording]) -> list[Utterance]:
    return [Utterance(log_mel(read_audio(each.path)), each.text) for each in recordings]


def score(
    name: str,
    model: NemotronAsrStreamingForRNNT,
    tokenizer: ParakeetTokenizer,
    spoken: Sequence[Utterance],
    lookahead: int,
) -> Score:
    """Transcribe utterances, and compare the texts with their transcripts."""
    references = [utterance.text for utterance in spoken]
    texts = transcribe(model, tokenizer, spoken, lookahead)
    return Score(
        name,
        sum(len(reference.split()) for reference in references),
        word_error_rate(references, texts),
        list(zip(references, texts, strict=True)),
    )
