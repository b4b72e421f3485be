"""The words that streams have lost, or that have changed, since they were carried on elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from earshot import Transcript
from rapidfuzz.distance import Levenshtein

CHANGED_SHARE = 0.01
"""Words that may differ: the server that carries a stream on has not heard its beginning."""
SEAMS_PER_MISSING_WORD = 10
"""One missing word is allowed in so many streams that were carried on. A chunk that were lost at
each seam would be a word or more in each of them."""


@dataclass(frozen=True)
class Words:
    """The words of all streams, compared with those of the same streams undisturbed."""

    undisturbed: int
    missing: int
    changed: int
    """Words that are missing, different or too many."""

    def faults(self, seams: int) -> Iterator[str]:
        """Say what is more than `seams` streams that were carried on explain."""
        if self.missing > math.ceil(seams / SEAMS_PER_MISSING_WORD):
            yield (
                f"{self.missing} words are missing: expected at most one for "
                f"{SEAMS_PER_MISSING_WORD} of the {seams} streams that were carried on"
            )
        if self.changed > CHANGED_SHARE * self.undisturbed:
            yield (
                f"{self.changed} of {self.undisturbed} words differ: expected at most "
                f"{CHANGED_SHARE:.0%}"
            )


def compare(undisturbed: Sequence[Transcript], disturbed: Sequence[Transcript]) -> Words:
    """Compare the words of each stream with those of the same one undisturbed."""
    pairs = [(_texts(a), _texts(b)) for a, b in zip(undisturbed, disturbed, strict=True)]
    edits = [edit.tag for before, after in pairs for edit in Levenshtein.editops(before, after)]
    return Words(sum(len(before) for before, _ in pairs), edits.count("delete"), len(edits))


def _texts(transcript: Transcript) -> list[str]:
    return [word.text for word in transcript.words]
