"""Count word errors, after the usual normalization for English."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

# whisper_normalizer has no types.
_Normalizer: Any = EnglishTextNormalizer


@dataclass(frozen=True)
class WordErrors:
    """Word errors of a recognizer in one text."""

    words: int
    """Words in the transcript."""
    errors: int
    """Substitutions, deletions and insertions."""

    @property
    def rate(self) -> float:
        """Return the word error rate."""
        return self.errors / max(1, self.words)


def count_errors(transcripts: Sequence[str], recognized: Sequence[str]) -> list[WordErrors]:
    """Count the errors in each recognized text, after normalizing it and its transcript."""
    pairs = zip(_normalized(transcripts), _normalized(recognized), strict=True)
    return [WordErrors(len(truth.split()), _errors(truth, text)) for truth, text in pairs]


def total(counts: Iterable[WordErrors]) -> WordErrors:
    """Add up the counts as if all were one text, so that long texts weigh more than short ones."""
    listed = list(counts)
    return WordErrors(sum(each.words for each in listed), sum(each.errors for each in listed))


def _normalized(texts: Sequence[str]) -> list[str]:
    """Return the texts in lower case, without punctuation, numbers and spellings in one form."""
    normalize = _Normalizer()
    return [str(normalize(text)).strip() for text in texts]


def _errors(transcript: str, recognized: str) -> int:
    if not transcript:  # jiwer cannot align empty text: every recognized word is an insertion
        return len(recognized.split())
    alignment = jiwer.process_words(transcript, recognized)
    return alignment.substitutions + alignment.deletions + alignment.insertions
