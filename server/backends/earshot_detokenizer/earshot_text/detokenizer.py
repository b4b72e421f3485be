"""What a chunk's tokens add to a transcript, without keeping the transcript.

A tokenizer decodes whole sequences: the first token loses its leading space, and a character may be
spread over several byte tokens. So the text of new tokens is the difference between decoding them
behind their context and decoding the context alone. A few tokens of context are enough: spaces need
one, the longest UTF-8 character four.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Wraps a `tokenizers` tokenizer; stateless."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))

    def added(self, previous: Sequence[int], tokens: Sequence[int]) -> tuple[str, list[int]]:
        """Text that ``tokens`` add behind ``previous``, and how many characters each of them adds.

        A character whose bytes are not all there yet is held back until its last byte comes.
        """
        known = list(previous)
        before = text = self._complete_text(known)
        lengths: list[int] = []
        for token in tokens:
            known.append(token)
            longer = self._complete_text(known)
            lengths.append(len(longer) - len(text))
            text = longer
        return text[len(before) :], lengths

    def _complete_text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens).rstrip(_INCOMPLETE) if tokens else ""
