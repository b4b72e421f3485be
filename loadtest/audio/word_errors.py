"""Word errors, after the normalization that the field uses for English."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

from loadtest.comparison import ALL_SETS
from loadtest.recordings import Recording

# whisper_normalizer carries no types.
_Normalizer: Any = EnglishTextNormalizer


@dataclass(frozen=True)
class Score:
    """What was heard of what was said."""

    words: int
    """Words that were said."""
    errors: int
    """Words that were taken for others, left out or made up."""

    @property
    def rate(self) -> float:
        """Errors per word said."""
        return self.errors / max(1, self.words)


def score(said: Sequence[str], heard: Sequence[str]) -> list[Score]:
    """One score for each pair of texts, after normalization."""
    pairs = zip(_normalized(said), _normalized(heard), strict=True)
    return [Score(len(reference.split()), _errors(reference, text)) for reference, text in pairs]


def total(scores: Iterable[Score]) -> Score:
    """All of them as one text: long ones weigh more than short ones."""
    listed = list(scores)
    return Score(sum(each.words for each in listed), sum(each.errors for each in listed))


def word_counts(recordings: Sequence[Recording]) -> dict[str, int]:
    """Words said in each set and in `all`, after normalization."""
    nothing = [""] * len(recordings)
    return {name: each.words for name, each in _by_set(recordings, nothing).items()}


def word_error_rates(recordings: Sequence[Recording], heard: Sequence[str]) -> dict[str, float]:
    """Errors per word said, in each set and in `all`; ``heard`` in the order of the recordings."""
    return {name: round(each.rate, 4) for name, each in _by_set(recordings, heard).items()}


def _by_set(recordings: Sequence[Recording], heard: Sequence[str]) -> dict[str, Score]:
    scores = score([recording.said for recording in recordings], heard)
    members: dict[str, list[Score]] = {}
    for recording, each in zip(recordings, scores, strict=True):
        for name in (recording.speech_set, ALL_SETS):
            members.setdefault(name, []).append(each)
    return {name: total(listed) for name, listed in members.items()}


def _normalized(texts: Sequence[str]) -> list[str]:
    """Lower case, no punctuation, numbers and spellings in one form."""
    normalize = _Normalizer()
    return [str(normalize(text)).strip() for text in texts]


def _errors(reference: str, hypothesis: str) -> int:
    if not reference:  # jiwer has no alignment with nothing; whatever was heard is inserted
        return len(hypothesis.split())
    alignment = jiwer.process_words(reference, hypothesis)
    return alignment.substitutions + alignment.deletions + alignment.insertions
