"""Recognizers side by side on the same recordings: word error rate and streams per core.

The baseline command writes such a comparison; a capacity result may carry one; the report and the
README's table show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from loadtest.files import write_whole

ALL_SETS = "all"
BASELINE_SCHEMA = 1


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


@dataclass(frozen=True)
class BaselineResult:
    """The document that the command writes."""

    schema: int
    kind: Literal["baseline"]
    comparison: Comparison
    cpu_model: str
    cpu_cores: int
    versions: dict[str, str]
    command: str
    started_at: str
    """ISO 8601, UTC."""

    @classmethod
    def from_json(cls, path: Path) -> BaselineResult:
        """Read the document at ``path``; raises OSError or ValueError."""
        try:
            return _DOCUMENT.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is not the result of a baseline run: {error}") from error

    def to_json(self) -> str:
        """The document, indented."""
        return _DOCUMENT.dump_json(self, indent=2).decode()

    def write(self, path: Path) -> None:
        """Write to ``path``, whole or not at all."""
        write_whole(path, f"{self.to_json()}\n")


_DOCUMENT = TypeAdapter(BaselineResult)
