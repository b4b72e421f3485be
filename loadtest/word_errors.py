"""Word error rates by set, after the normalization that the field uses for English."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

from loadtest.comparison import ALL_SETS
from loadtest.recordings import Recording

# whisper_normalizer carries no types.
_Normalizer: Any = EnglishTextNormalizer


def normalized(texts: Sequence[str]) -> list[str]:
    """Lower case, no punctuation, numbers and spellings in one form."""
    normalize = _Normalizer()
    return [str(normalize(text)).strip() for text in texts]


def word_counts(recordings: Sequence[Recording]) -> dict[str, int]:
    """Words said in each set and in `all`, after normalization."""
    counts: dict[str, int] = {}
    said = normalized([recording.said for recording in recordings])
    for recording, text in zip(recordings, said, strict=True):
        words = len(text.split())
        for name in (recording.speech_set, ALL_SETS):
            counts[name] = counts.get(name, 0) + words
    return counts


def word_error_rates(recordings: Sequence[Recording], heard: Sequence[str]) -> dict[str, float]:
    """Errors per word said, in each set and in `all`; ``heard`` in the order of the recordings."""
    words, errors = word_counts(recordings), dict.fromkeys(word_counts(recordings), 0)
    said = normalized([recording.said for recording in recordings])
    for recording, reference, hypothesis in zip(recordings, said, normalized(heard), strict=True):
        count = _errors(reference, hypothesis)
        for name in (recording.speech_set, ALL_SETS):
            errors[name] += count
    return {name: round(errors[name] / max(1, words[name]), 4) for name in words}


def _errors(reference: str, hypothesis: str) -> int:
    if not reference:  # jiwer has no alignment with nothing; whatever was heard is inserted
        return len(hypothesis.split())
    alignment = jiwer.process_words(reference, hypothesis)
    return alignment.substitutions + alignment.deletions + alignment.insertions
