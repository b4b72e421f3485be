"""Recognizers side by side on the same recordings: word error rate and streams per core.

The baseline command writes such a comparison; a capacity result may carry one; the report and the
README's table show it.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL_SETS = "all"


@dataclass(frozen=True)
class SpeechSet:
    """What was recognized."""

    name: str
    recordings: int
    audio_s: float
    words: int
    """Words that were said, after normalization."""


@dataclass(frozen=True)
class Recognizer:
    """What one recognizer made of the sets."""

    name: str
    word_error_rate: dict[str, float]
    """By name of the set; `all` is that of all words together."""
    streams_per_core: float | None
    """``None`` where the CPU time of the server cannot be seen."""
    streams_per_core_is: str
    """How it was measured, in words."""


@dataclass(frozen=True)
class Comparison:
    """Sets and recognizers of one run."""

    sets: list[SpeechSet]
    recognizers: list[Recognizer]
