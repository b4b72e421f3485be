"""Join the text of chunks into words: a word may span chunks and ends where the next one begins."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from ._transcript import Token, Transcript, Word

_RUNS = re.compile(r"\s+|\S+")
_LONGEST_GAP_MS = 1000
"""A longer gap between two tokens of a word is a pause, in which the word was not spoken."""
_LONGEST_CHARACTER_TOKENS = 8
"""More tokens than one character can consist of, even if each token is a single byte."""
_LONGEST_WORD_TOKENS = 1000
"""Longer text without white space, as in Chinese, is cut so that a word does not grow without
bound."""


class Assembler:
    """Collects the tokens of one stream, and the words that they form."""

    def __init__(self, frame_ms: int, *, keep: bool = True) -> None:
        """Keep all tokens and words for `transcript`, or only the open ones if `keep` is false."""
        self._frame_ms = frame_ms
        self._keep = keep
        self._tokens: list[Token] = []
        self._words: list[Word] = []
        self._final: list[Word] = []
        """Words that became final and have not been returned."""
        self._open_text = ""
        self._open_tokens: list[Token] = []
        self._textless: deque[Token] = deque(maxlen=_LONGEST_CHARACTER_TOKENS)

    def add(self, tokens: Sequence[Token]) -> tuple[Word, ...]:
        """Add the tokens of the next chunk; return the words that became final."""
        for token in tokens:
            self._add(token)
        if self._keep:
            self._tokens += tokens
        return self._take_final()

    def finish(self) -> tuple[Word, ...]:
        """End the stream; return the word that was still open, if any."""
        self._close_word()
        return self._take_final()

    @property
    def open_word(self) -> str:
        """Return the beginning of a word that later tokens may continue, or ""."""
        return self._open_text

    def transcript(self, duration_s: float) -> Transcript:
        """Return the kept tokens and words, and the word that is still open."""
        open_word = (self._open_word(),) if self._open_text else ()
        return Transcript(
            text="".join(token.text for token in self._tokens),
            words=(*self._words, *open_word),
            tokens=tuple(self._tokens),
            duration_s=duration_s,
        )

    def _take_final(self) -> tuple[Word, ...]:
        final = tuple(self._final)
        self._final.clear()
        if self._keep:
            self._words += final
        return final

    def _add(self, token: Token) -> None:
        if not token.text:
            # A later token completes this character; until then, its word is unknown.
            self._textless.append(token)
            return
        for run in _RUNS.findall(token.text):
            if run.isspace():
                self._close_word()
                continue
            self._open_text += run
            self._open_tokens += self._textless
            self._textless.clear()
            if not self._open_tokens or self._open_tokens[-1] is not token:
                self._open_tokens.append(token)
            if len(self._open_tokens) >= _LONGEST_WORD_TOKENS:
                self._close_word()

    def _close_word(self) -> None:
        if self._open_text:
            self._final.append(self._open_word())
            self._open_text = ""
            self._open_tokens = []

    def _open_word(self) -> Word:
        tokens = self._open_tokens
        first, last = self._spoken(tokens)
        return Word(
            text=self._open_text,
            start_ms=first.frame * self._frame_ms,
            end_ms=(last.frame + 1) * self._frame_ms,
            confidence=math.exp(sum(token.logprob for token in tokens) / len(tokens)),
        )

    def _spoken(self, tokens: Sequence[Token]) -> tuple[Token, Token]:
        """Return the first and last token of the part of a word that was spoken without a pause.

        A recognizer may delay the end of a word, or its punctuation, until the next word is spoken.
        Of the parts before and after such a pause, the one with the most letters is chosen.
        """
        borders = [
            index
            for index, (token, after) in enumerate(pairwise(tokens), start=1)
            if (after.frame - token.frame) * self._frame_ms > _LONGEST_GAP_MS
        ]
        parts = [tokens[a:b] for a, b in pairwise([0, *borders, len(tokens)])]
        spoken = max(parts, key=lambda part: sum(_letters(token.text) for token in part))
        return spoken[0], spoken[-1]


def _letters(text: str) -> int:
    return sum(character.isalnum() for character in text)
