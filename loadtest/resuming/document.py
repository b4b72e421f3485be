"""The JSON document of streams that have lost their server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions
from loadtest.result.stored import Stored

SCHEMA = 1


@dataclass(frozen=True)
class Gap:
    """How long the text of streams stood still that were carried on."""

    median_ms: int
    longest_ms: int


@dataclass(frozen=True)
class ResumingResult(Stored):
    """Live streams under which a command took a server away, and the verdict."""

    NOUN: ClassVar[str] = "streams that lose their server"

    schema: int
    kind: Literal["resuming"]
    passes: bool
    reasons: list[str]
    """Why it fails."""
    command: list[str]
    """What took the server away, in the middle of the streams."""
    streams: int
    failures: dict[str, int]
    """Streams that failed, by kind of error."""
    carried_on: int
    """How often a stream went on at another server."""
    gap: Gap | None
    """`None` if no stream was carried on."""
    words: int
    """Of the same streams, undisturbed."""
    missing_words: int
    changed_words: int
    """Words that are missing, different or too many."""
    conditions: Conditions
