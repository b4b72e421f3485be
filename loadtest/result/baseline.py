"""Comparison of recognizers on the same recordings: word error rate and streams per core.

The baseline command writes it as a document; a capacity result may contain one; the report and the
README's table show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from loadtest.result.files import write_whole
from loadtest.result.invalid import reason

ALL_SETS = "all"
BASELINE_SCHEMA = 1


@dataclass(frozen=True)
class SpeechSet:
    """A set of recordings that all recognizers transcribed."""

    name: str
    recordings: int
    audio_s: float
    words: int
    """Number of words in the transcripts, after normalization."""


@dataclass(frozen=True)
class RecognizerFigures:
    """Figures of one recognizer."""

    name: str
    word_error_rate: dict[str, float]
    """Word error rate by name of the set; `all` stands for all sets together."""
    streams_per_core: float | None
    """`None` if the CPU time of the server cannot be seen."""
    streams_per_core_is: str
    """Description of that measurement."""


@dataclass(frozen=True)
class RecognizerComparison:
    """Sets and recognizers of one run."""

    sets: list[SpeechSet]
    recognizers: list[RecognizerFigures]


@dataclass(frozen=True)
class BaselineResult:
    """The document of the baseline command."""

    schema: int
    kind: Literal["baseline"]
    comparison: RecognizerComparison
    cpu_model: str
    cpu_cores: int
    versions: dict[str, str]
    command: str
    started_at: str
    """ISO 8601, UTC."""

    @classmethod
    def from_json(cls, path: Path) -> BaselineResult:
        """Read the document at `path`.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not such a document.
        """
        try:
            return _DOCUMENT.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{path} is not the result of a baseline run: {reason(error)}"
            ) from error

    def to_json(self) -> str:
        """Return the document as indented JSON."""
        return _DOCUMENT.dump_json(self, indent=2).decode()

    def write(self, path: Path) -> None:
        """Write the document to `path` atomically."""
        write_whole(path, f"{self.to_json()}\n")


_DOCUMENT = TypeAdapter(BaselineResult)
