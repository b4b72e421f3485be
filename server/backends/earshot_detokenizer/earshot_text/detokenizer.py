"""What a chunk's tokens add to a transcript, without keeping the transcript.

A tokenizer decodes whole sequences: the first token loses its leading space, and a character may be
spread over several byte tokens. So the text of new tokens is the difference between decoding them
behind their context and decoding the context alone. A few tokens of context are enough: spaces need
one, the longest UTF-8 character four.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise, takewhile
from pathlib import Path

from tokenizers import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_CONTEXT_TOKENS = 8
"""As many as the decoder of a stream hands on."""
_BYTES_BEFORE_LAST = 3
"""Bytes of a UTF-8 character in front of its last one, at most."""


class Detokenizer:
    """Wraps a `tokenizers` tokenizer; stateless."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))

    def added(self, previous: Sequence[int], tokens: Sequence[int]) -> tuple[str, list[int]]:
        """Text that `tokens` add behind `previous`, and how many characters each of them adds.

        A character whose bytes are not all there yet is held back until its last byte comes.
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
        """The text of a whole utterance, and how many characters each token adds to it.

        Piece by piece behind its context: decoding all of it once for each token would take time
        that grows with its square.
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
        """Text up to the last complete character.

        Byte tokens are decoded a run at a time, so one missing byte spoils the characters before
        it too: the incomplete ones have to be left out, not cut off.
        """
        for held_back in range(min(_BYTES_BEFORE_LAST, len(tokens)) + 1):
            text = self._tokenizer.decode(tokens[: len(tokens) - held_back])
            if not text.endswith(_INCOMPLETE):
                return text
        return self._tokenizer.decode(tokens)

    def _whole_characters(self, context: Sequence[int]) -> list[int]:
        """`context` without the end of a character whose first bytes it no longer reaches."""
        for skipped in range(_BYTES_BEFORE_LAST + 1):
            rest = list(context[skipped:])
            if _INCOMPLETE not in self._complete_text(rest):
                return rest
        return list(context)


def _fitted(lengths: list[int], known: str, text: str) -> list[int]:
    """`lengths` of `known` for `text`: the last token adds what begins to differ.

    Only where an utterance ends within a character: nobody will bring its last bytes any more.
    """
    pairs = zip(known, text, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    ends = [min(end, same) for end in accumulate(lengths)]
    ends[-1:] = [len(text)] * bool(ends)
    return [end - start for start, end in pairwise([0, *ends])]
