"""Join the tokens of pieces into those of the recording.

After a pause, one piece simply follows the other. Where two pieces overlap, both contain tokens for
the same two seconds. The join lies in the middle of the longest run of tokens on which they agree,
because a piece is least reliable at its edges. Without agreement, it lies where it falls between
words of both pieces, or cuts least into a word; of several such places, at the one nearest to the
middle.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ._transcript import Token

# Two pieces may emit the same token at times that differ by this much.
_TOLERANCE_MS = 400
# A single token may agree by chance.
_FEWEST_EQUAL = 2


class Joiner:
    """Collects the tokens of one recording, piece by piece."""

    def __init__(self, frame_ms: int) -> None:
        self._tolerance = _TOLERANCE_MS // frame_ms
        self.tokens: list[Token] = []

    def add(self, tokens: Sequence[Token], overlap: tuple[int, int] | None) -> None:
        """Add the tokens of the next piece.

        Args:
            tokens: Their frames are counted from the start of the recording.
            overlap: The first frame that this piece shares with the one before, and the end of
                the shared frames; None if they share none.
        """
        if overlap is None:
            self._append(tokens)
            return
        first, end = overlap
        before = [token for token in self.tokens if token.frame < first]
        shared = self.tokens[len(before) :]
        if not shared or not tokens or tokens[0].frame >= end:
            # Only one of the pieces has tokens in the overlap.
            self._append(tokens)
            return
        agreement = self._agreement(shared, tokens)
        keep, skip = agreement or _between_words(shared, tokens, first, end)
        self.tokens = [*before, *shared[:keep]]
        # Two pieces may time a token slightly differently, but frame numbers must not decrease.
        latest = max((token.frame for token in self.tokens[-1:]), default=0)
        rest = [replace(token, frame=max(token.frame, latest)) for token in tokens[skip:]]
        if agreement:
            self.tokens += rest
        else:
            self._append(rest)

    def _agreement(self, ours: Sequence[Token], theirs: Sequence[Token]) -> tuple[int, int] | None:
        """Return how many of `ours` to keep and of `theirs` to skip, if they agree."""
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
            return None
        return our_end - length // 2, their_end - length // 2

    def _append(self, tokens: Sequence[Token]) -> None:
        """Append tokens; the text of a piece lacks the space before its first word."""
        spaced = list(tokens)
        for index, token in enumerate(spaced):
            if token.text:
                before = next((token.text for token in reversed(self.tokens) if token.text), "")
                if needs_space(before, token.text):
                    spaced[index] = replace(token, text=f" {token.text}")
                break
        self.tokens += spaced


def needs_space(before: str, text: str) -> bool:
    """Return whether a space belongs between the text `before` and the first word of `text`."""
    return (
        bool(before)
        and not before[-1].isspace()
        and not text[0].isspace()
        # Chinese and Japanese are written without spaces.
        and not (_is_wide(before[-1]) and _is_wide(text[0]))
    )


def _between_words(
    ours: Sequence[Token], theirs: Sequence[Token], first: int, end: int
) -> tuple[int, int]:
    """Return how many of `ours` to keep and of `theirs` to skip, losing and repeating the least."""
    # The tokens after the overlap are in the second piece alone.
    beyond = next((i for i, token in enumerate(theirs) if token.frame >= end), len(theirs))

    def cost(join: tuple[int, int]) -> tuple[int, int, int]:
        keep, skip = join
        earlier = [token.frame for token in (*ours[:keep], *theirs[:skip])]
        later = [token.frame for token in (*ours[keep:], *theirs[skip:beyond])]
        last, following = max(earlier, default=first), min(later, default=end)
        from_the_middle = abs(last + following - first - end)
        return max(0, last - following), from_the_middle, skip - keep

    joins = itertools.product(
        [*_word_starts(ours), len(ours)], [*_word_starts(theirs[:beyond]), beyond]
    )
    return min(joins, key=cost)


def _word_starts(tokens: Sequence[Token]) -> Iterator[int]:
    for index, token in enumerate(tokens):
        if index == 0 or token.text[:1].isspace() or _is_wide(token.text[:1]):
            yield index


def _is_wide(character: str) -> bool:
    return bool(character) and unicodedata.east_asian_width(character) in ("W", "F")
