"""Join the text of chunks to words: a word may span chunks and ends where the next one begins."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ._transcript import Token, Transcript, Word

_RUNS = re.compile(r"\s+|\S+")


class Assembler:
    """Collects the tokens of one stream, and the words that they make."""

    def __init__(self, frame_ms: int) -> None:
        self._frame_ms = frame_ms
        self._tokens: list[Token] = []
        self._words: list[Word] = []
        self._open_text = ""
        self._open_tokens: list[Token] = []
        self._textless: list[Token] = []

    def add(self, tokens: Sequence[Token]) -> tuple[Word, ...]:
        """Add the tokens of the next chunk; return the words that became final."""
        before = len(self._words)
        for token in tokens:
            self._add(token)
        self._tokens += tokens
        return tuple(self._words[before:])

    def finish(self) -> tuple[Word, ...]:
        """End the stream; return the word that was still open, if any."""
        before = len(self._words)
        self._close_word()
        return tuple(self._words[before:])

    def transcript(self, duration_s: float) -> Transcript:
        """Return all tokens and words so far, including the word that is still open."""
        open_word = (self._open_word(),) if self._open_text else ()
        return Transcript(
            text="".join(token.text for token in self._tokens),
            words=(*self._words, *open_word),
            tokens=tuple(self._tokens),
            duration_s=duration_s,
        )

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
            self._textless = []
            if not self._open_tokens or self._open_tokens[-1] is not token:
                self._open_tokens.append(token)

    def _close_word(self) -> None:
        if self._open_text:
            self._words.append(self._open_word())
            self._open_text = ""
            self._open_tokens = []

    def _open_word(self) -> Word:
        tokens = self._open_tokens
        return Word(
            text=self._open_text,
            start_ms=tokens[0].frame * self._frame_ms,
            end_ms=(tokens[-1].frame + 1) * self._frame_ms,
            confidence=math.exp(sum(token.logprob for token in tokens) / len(tokens)),
        )
