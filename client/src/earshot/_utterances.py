"""Group the text of a stream into utterances."""

from __future__ import annotations

from collections.abc import Sequence

from ._endpointer import Speech
from ._transcript import Utterance, Word

_MOST_WORDS = 500
"""A longer utterance is cut, so that the memory of a stream is bounded: about three minutes of
speech without a pause."""


class Utterances:
    """Collects the text and the words of one stream until an utterance ends."""

    def __init__(self, sample_rate_hz: int, *, keep: bool = True) -> None:
        """Keep all utterances that have ended if `keep` is true."""
        self._keep = keep
        self._samples_per_ms = sample_rate_hz / 1000
        self._text = ""
        self._words: list[Word] = []
        self.ended: list[Utterance] = []

    def add(self, text: str, words: Sequence[Word]) -> None:
        """Add the text and the words of the next chunk."""
        self._text += text
        self._words += words

    @property
    def is_full(self) -> bool:
        """Return whether the utterance is so long that it must end."""
        return len(self._words) >= _MOST_WORDS

    def end(self, speech: Speech | None) -> tuple[Utterance, ...]:
        """Return the utterance that ends here, if there is text since the last one.

        Args:
            speech: The speech that was detected; None if there was none, in which case the times
                are those of the words.
        """
        if not self._words:
            return ()
        text, words = self._text.strip(), tuple(self._words)
        self._text, self._words = "", []
        utterance = Utterance(text, words, *self._times_ms(speech, words))
        if self._keep:
            self.ended.append(utterance)
        return (utterance,)

    def _times_ms(self, speech: Speech | None, words: Sequence[Word]) -> tuple[int, int]:
        if speech is None:
            return words[0].start_ms, words[-1].end_ms
        return (
            round(speech.start_sample / self._samples_per_ms),
            round(speech.end_sample / self._samples_per_ms),
        )
