"""Count the words that streams lose, or that change, when they continue on another server."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from earshot import Transcript
from rapidfuzz.distance import Levenshtein

CHANGED_SHARE = 0.01
"""Share of words that may differ: the new server of a stream does not have its beginning."""
SEAMS_PER_MISSING_WORD = 10
"""One missing word is allowed per this many streams that continued elsewhere. If a chunk were lost
at each seam, each of them would miss a word or more."""


@dataclass(frozen=True)
class Words:
    """The words of all streams, compared with those of the same streams undisturbed."""

    undisturbed: int
    missing: int
    changed: int
    """Words that are missing, different or additional."""

    def faults(self, seams: int) -> Iterator[str]:
        """Yield the faults that `seams` streams that continued elsewhere do not explain."""
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
    """Compare the words of each stream with those of the same stream undisturbed."""
    pairs = [(_texts(a), _texts(b)) for a, b in zip(undisturbed, disturbed, strict=True)]
    edits = [edit.tag for before, after in pairs for edit in Levenshtein.editops(before, after)]
    return Words(sum(len(before) for before, _ in pairs), edits.count("delete"), len(edits))


def _texts(transcript: Transcript) -> list[str]:
    return [word.text for word in transcript.words]
