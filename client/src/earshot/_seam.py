"""Join the tokens of a sequence to those of the sequence before it.

A stream that continues after a loss repeats its last seconds of audio to the new sequence, which
emits tokens for them again. The seam lies after the tokens that the stream has already. The two
sequences may time a token differently by a few frames, and differ where the new one lacks the audio
before. So the seam is where the fewest tokens are lost or doubled, not at a fixed frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ._joiner import needs_space
from ._transcript import Token

TOLERANCE_MS = 400
"""Two sequences may emit the same token at times that differ by this much."""
# The end of the earlier sequence that is compared: about a dozen words.
_COMPARED_MS = 4000


class Seam:
    """Drops the tokens of a new sequence that the stream already has."""

    def __init__(
        self, emitted: Sequence[Token], replayed: Sequence[Token], boundary: int, frame_ms: int
    ) -> None:
        """Prepare to join a new sequence.

        Args:
            emitted: The last tokens of the stream.
            replayed: The tokens of the new sequence for the audio that was repeated. Frames of both
                are counted from the start of the stream.
            boundary: The first frame that the stream had not reached.
            frame_ms: The duration of a frame.
        """
        first = boundary - _COMPARED_MS // frame_ms
        self._emitted = [token for token in emitted if token.frame >= first]
        self._text = next((token.text for token in reversed(emitted) if token.text), "")
        self._replayed = [token for token in replayed if token.frame >= first]
        self._has_text = any(token.text for token in replayed)
        self._boundary = boundary
        self._tolerance = TOLERANCE_MS // frame_ms
        self._joined = False
        self._owed: list[Token] = []
        """The last tokens of the stream, if the new sequence has yet to repeat them."""

    @property
    def is_done(self) -> bool:
        """Return whether all later tokens are new and need no change."""
        return self._joined and self._has_text and not self._owed

    def join(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """Return those tokens of the new sequence's next reply that are new to the stream."""
        new = list(tokens)
        if not self._joined:
            self._joined = True
            replayed = self._replayed + new
            skip = self._skip(replayed)
            self._has_text |= any(token.text for token in replayed[:skip])
            new = replayed[skip:]
        while self._owed and new and self._is_same(self._owed[0], new[0]):
            del self._owed[0], new[0]
        if new:
            self._owed = []
        return tuple(map(self._place, new))

    def _skip(self, replayed: Sequence[Token]) -> int:
        """Return how many tokens of `replayed` repeat tokens of the stream.

        That is the number with the smallest edit distance between the two, and of equal ones the
        one nearest to the boundary.
        """
        distances = self._distances(replayed)
        by_time = sum(token.frame < self._boundary for token in replayed)
        earliest = sum(token.frame < self._boundary - self._tolerance for token in replayed)
        latest = sum(token.frame < self._boundary + self._tolerance for token in replayed)
        skip = min(
            range(earliest, latest + 1),
            key=lambda count: (distances[-1][count], abs(count - by_time)),
        )
        if skip == len(replayed):
            self._owed = self._emitted[self._repeated(distances, skip) :]
        return skip

    def _distances(self, replayed: Sequence[Token]) -> list[list[int]]:
        """Return the edit distance between each prefix of the stream's tokens and of `replayed`.

        Tokens of `replayed` before the first token of the stream cost nothing: the new sequence may
        begin in the middle of a word.
        """
        rows = [[0] * (len(replayed) + 1)]
        for emitted in self._emitted:
            above = rows[-1]
            row = [above[0] + 1]
            for index, token in enumerate(replayed):
                same = above[index] + (0 if self._is_same(emitted, token) else 2)
                row.append(min(same, above[index + 1] + 1, row[index] + 1))
            rows.append(row)
        return rows

    def _repeated(self, distances: list[list[int]], skip: int) -> int:
        """Return how many tokens of the stream the first `skip` tokens of `replayed` repeat."""
        total = distances[-1][skip]
        return next(
            count
            for count, row in enumerate(distances)
            if row[skip] + len(self._emitted) - count == total
        )

    def _is_same(self, emitted: Token, replayed: Token) -> bool:
        return emitted.id == replayed.id and abs(emitted.frame - replayed.frame) <= self._tolerance

    def _place(self, token: Token) -> Token:
        """Return a new token as part of the stream: not before the last one, and with its space."""
        last = max((emitted.frame for emitted in self._emitted[-1:]), default=0)
        text = token.text
        if text and not self._has_text and needs_space(self._text, text):
            # The text of a sequence lacks the space before its first word.
            text = f" {text}"
        self._has_text |= bool(text)
        return replace(token, frame=max(token.frame, last), text=text)
