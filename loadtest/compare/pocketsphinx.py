"""Run PocketSphinx with its own English models, the traditional pipeline of the comparison.

It uses Gaussian mixtures, a pronunciation dictionary and a trigram language model, with a beam
search in three passes and default settings.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, ClassVar

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Samples


class PocketSphinx:
    """A decoder of PocketSphinx."""

    TITLE: ClassVar[str] = "PocketSphinx"
    PACKAGES: ClassVar[tuple[str, ...]] = ("pocketsphinx",)

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        decoder: Any = Decoder
        self._decoder = decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL")

    @property
    def name(self) -> str:
        """Return recognizer, version and model."""
        return f"{self.TITLE} {version('pocketsphinx')}, en-us"

    def transcribe(self, samples: Samples) -> str:
        """Return the best hypothesis for one utterance; it is empty if the search found none."""
        self._decoder.start_utt()
        # Pass the whole utterance at once, because the features are normalized over all of it.
        self._decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
        self._decoder.end_utt()
        best = self._decoder.hyp()
        return best.hypstr if best else ""
