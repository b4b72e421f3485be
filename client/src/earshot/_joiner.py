"""Joins the tokens of pieces to those of the recording.

After a pause one piece simply follows the other. Where two pieces overlap, both have heard the
same two seconds: the tokens on which they agree there mark the place to change over, in the middle
of the agreement, because a piece knows least at its edges. Without agreement, the words that begin
in the first half of the overlap come from the first piece, the others from the second.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from ._transcript import Token

# Two pieces may place the same token that far apart.
_TOLERANCE_MS = 400
# One token may agree by chance.
_FEWEST_EQUAL = 2


class Joiner:
    """Collects the tokens of one recording, piece by piece."""

    def __init__(self, frame_ms: int) -> None:
        self._tolerance = _TOLERANCE_MS // frame_ms
        self.tokens: list[Token] = []

    def add(self, tokens: Sequence[Token], overlap: tuple[int, int] | None) -> None:
        """Takes the next piece; `overlap` is the first frame that both heard, and the end of it.

        Frames of `tokens` are counted from the start of the recording.
        """
        if overlap is None:
            self._append(tokens)
            return
        first, end = overlap
        before = [token for token in self.tokens if token.frame < first]
        shared = self.tokens[len(before) :]
        if not shared or not tokens or tokens[0].frame >= end:
            # Only one of them has heard anything there.
            self._append(tokens)
            return
        keep, skip = self._agreement(shared, tokens)
        if keep is None:
            middle = (first + end) // 2
            self.tokens = before + shared[: _first_word(shared, middle, end)]
            self._append(tokens[_first_word(tokens, middle, end) :])
        else:
            kept = [*before, *shared[:keep]]
            # Two pieces may time a token a little differently; time must not run backwards.
            latest = kept[-1].frame
            later = (replace(token, frame=max(token.frame, latest)) for token in tokens[skip:])
            self.tokens = [*kept, *later]

    def _agreement(
        self, ours: Sequence[Token], theirs: Sequence[Token]
    ) -> tuple[int, int] | tuple[None, None]:
        """How many of `ours` to keep and of `theirs` to skip: half of the longest equal run."""
        best = (0, 0, 0)
        lengths = [0] * (len(theirs) + 1)
        for i, our in enumerate(ours):
            row = [0] * (len(theirs) + 1)
            for j, their in enumerate(theirs):
                if our.id == their.id and abs(our.frame - their.frame) <= self._tolerance:
                    row[j + 1] = lengths[j] + 1
                    best = max(best, (row[j + 1], i + 1, j + 1))
            lengths = row
        length, our_end, their_end = best
        if length < _FEWEST_EQUAL:
            return None, None
        return our_end - length // 2, their_end - length // 2

    def _append(self, tokens: Sequence[Token]) -> None:
        """A piece knows nothing before its start, so its text begins without a space."""
        spaced = list(tokens)
        for index, token in enumerate(spaced):
            if token.text:
                if self._needs_space(token.text):
                    spaced[index] = replace(token, text=f" {token.text}")
                break
        self.tokens += spaced

    def _needs_space(self, text: str) -> bool:
        before = next((token.text for token in reversed(self.tokens) if token.text), "")
        return (
            bool(before)
            and not before[-1].isspace()
            and not text[0].isspace()
            # Chinese and its neighbours are written without spaces.
            and not (_is_wide(before[-1]) and _is_wide(text[0]))
        )


def _first_word(tokens: Sequence[Token], frame: int, end: int) -> int:
    """Index of the first word that begins at `frame` or later, or of what comes after `end`."""
    for index, token in enumerate(tokens):
        begins = index == 0 or token.text[:1].isspace() or _is_wide(token.text[:1])
        if (begins and token.frame >= frame) or token.frame >= end:
            return index
    return len(tokens)


def _is_wide(character: str) -> bool:
    return bool(character) and unicodedata.east_asian_width(character) in ("W", "F")
