"""Compute the text that a chunk's tokens add to a transcript, without keeping the transcript.

A tokenizer decodes whole sequences: the first token loses its leading space, and a character may
consist of several byte tokens. So the text of new tokens is the difference between decoding them
after their context and decoding the context alone. A few tokens of context are enough: spaces need
one, the longest UTF-8 character four.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise, takewhile
from pathlib import Path

from tokenizers import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_CONTEXT_TOKENS = 8
"""The decoder of a stream passes on the same number of tokens."""
_BYTES_BEFORE_LAST = 3
"""The largest number of bytes of a UTF-8 character before its last one."""


class Detokenizer:
    """Wraps a `tokenizers` tokenizer; stateless."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))

    def added(self, previous: Sequence[int], tokens: Sequence[int]) -> tuple[str, list[int]]:
        """Return the text that `tokens` add after `previous`, and the length that each token adds.

        A character with missing bytes is held back until its last byte comes.
        """
        known = self._whole_characters(previous)
        before = text = self._complete_text(known)
        lengths: list[int] = []
        for token in tokens:
            known.append(token)
            longer = self._complete_text(known)
            lengths.append(len(longer) - len(text))
            text = longer
        return text[len(before) :], lengths

    def whole(self, tokens: Sequence[int]) -> tuple[str, list[int]]:
        """Return the text of a whole utterance, and the length that each token adds.

        Each piece is decoded after its context: decoding the whole utterance for each token would
        take quadratic time.
        """
        text = self._tokenizer.decode(list(tokens))
        pieces: list[str] = []
        lengths: list[int] = []
        for start in range(0, len(tokens), _CONTEXT_TOKENS):
            context = tokens[max(0, start - _CONTEXT_TOKENS) : start]
            piece, added = self.added(context, tokens[start : start + _CONTEXT_TOKENS])
            pieces.append(piece)
            lengths += added
        known = "".join(pieces)
        return text, lengths if known == text else _fitted(lengths, known, text)

    def _complete_text(self, tokens: list[int]) -> str:
        """Return the text up to the last complete character.

        A run of byte tokens is decoded as a whole, so that a missing byte also damages the
        characters before it. Incomplete characters must be left out before decoding.
        """
        for held_back in range(min(_BYTES_BEFORE_LAST, len(tokens)) + 1):
            text = self._tokenizer.decode(tokens[: len(tokens) - held_back])
            if not text.endswith(_INCOMPLETE):
                return text
        return self._tokenizer.decode(tokens)

    def _whole_characters(self, context: Sequence[int]) -> list[int]:
        """Return `context` without the last bytes of a character that began before it."""
        for skipped in range(_BYTES_BEFORE_LAST + 1):
            rest = list(context[skipped:])
            if _INCOMPLETE not in self._complete_text(rest):
                return rest
        return list(context)


def _fitted(lengths: list[int], known: str, text: str) -> list[int]:
    """Return the `lengths` of `known` for `text`: the last token adds all that differs.

    This is for an utterance that ends within a character, whose last bytes never come.
    """
    pairs = zip(known, text, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    ends = [min(end, same) for end in accumulate(lengths)]
    ends[-1:] = [len(text)] * bool(ends)
    return [end - start for start, end in pairwise([0, *ends])]
