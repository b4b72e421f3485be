"""Join the tokens of a sequence to those of the sequence before it.

A stream that goes on after a loss repeats its last seconds of audio to the new sequence, which
emits tokens for them again. The seam lies after the tokens that were emitted already. The two may
time a token differently by a few frames, and differ for audio that the new sequence only heard in
part, so the seam is where the fewest tokens are lost or doubled, not where a frame begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ._joiner import needs_space
from ._transcript import Token

TOLERANCE_MS = 400
"""Two sequences may emit the same token at times that differ by this much."""
# The seconds of the earlier sequence that are compared: a dozen words.
_COMPARED_MS = 4000


class Seam:
    """Drops the tokens of a new sequence that the stream has emitted already."""

    def __init__(
        self, said: Sequence[Token], heard: Sequence[Token], boundary: int, frame_ms: int
    ) -> None:
        """Prepare to join a new sequence.

        Args:
            said: The last tokens of the stream.
            heard: The tokens of the new sequence for the audio that was repeated. Frames of both
                are counted from the start of the stream.
            boundary: The first frame that the stream had not reached.
            frame_ms: The duration of a frame.
        """
        first = boundary - _COMPARED_MS // frame_ms
        self._said = [token for token in said if token.frame >= first]
        self._text = next((token.text for token in reversed(said) if token.text), "")
        self._heard = [token for token in heard if token.frame >= first]
        self._heard_text = any(token.text for token in heard)
        self._boundary = boundary
        self._tolerance = TOLERANCE_MS // frame_ms
        self._joined = False
        self._owed: list[Token] = []
        """The last tokens of the stream, if the new sequence has yet to repeat them."""

    @property
    def is_done(self) -> bool:
        """Return whether all further tokens are new, and need no change."""
        return self._joined and self._heard_text and not self._owed

    def join(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """Return the tokens of the next reply of the new sequence that are new."""
        new = list(tokens)
        if not self._joined:
            self._joined = True
            heard = self._heard + new
            skip = self._skip(heard)
            self._heard_text |= any(token.text for token in heard[:skip])
            new = heard[skip:]
        while self._owed and new and self._is_same(self._owed[0], new[0]):
            del self._owed[0], new[0]
        if new:
            self._owed = []
        return tuple(map(self._place, new))

    def _skip(self, heard: Sequence[Token]) -> int:
        """Return how many of `heard` repeat what was said.

        That is the number with the least edit distance between the two, and of equals the one
        nearest to the boundary.
        """
        distances = self._distances(heard)
        by_time = sum(token.frame < self._boundary for token in heard)
        earliest = sum(token.frame < self._boundary - self._tolerance for token in heard)
        latest = sum(token.frame < self._boundary + self._tolerance for token in heard)
        skip = min(
            range(earliest, latest + 1),
            key=lambda count: (distances[-1][count], abs(count - by_time)),
        )
        if skip == len(heard):
            self._owed = self._said[self._repeated(distances, skip) :]
        return skip

    def _distances(self, heard: Sequence[Token]) -> list[list[int]]:
        """Return the edit distance of each beginning of what was said and of what was heard.

        What is heard before the first token that was said costs nothing: the new sequence begins
        in the middle of a word.
        """
        rows = [[0] * (len(heard) + 1)]
        for said in self._said:
            above = rows[-1]
            row = [above[0] + 1]
            for index, token in enumerate(heard):
                same = above[index] + (0 if self._is_same(said, token) else 2)
                row.append(min(same, above[index + 1] + 1, row[index] + 1))
            rows.append(row)
        return rows

    def _repeated(self, distances: list[list[int]], skip: int) -> int:
        """Return how many of the said tokens the first `skip` heard ones account for."""
        total = distances[-1][skip]
        return next(
            said
            for said, row in enumerate(distances)
            if row[skip] + len(self._said) - said == total
        )

    def _is_same(self, said: Token, heard: Token) -> bool:
        return said.id == heard.id and abs(said.frame - heard.frame) <= self._tolerance

    def _place(self, token: Token) -> Token:
        """Return a new token as the stream emits it: no earlier than the last one, and spaced."""
        last = max((said.frame for said in self._said[-1:]), default=0)
        text = token.text
        if text and not self._heard_text and needs_space(self._text, text):
            # The text of a sequence lacks the space before its first word.
            text = f" {text}"
        self._heard_text |= bool(text)
        return replace(token, frame=max(token.frame, last), text=text)
