"""The JSON document of streams that have lost their server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions
from loadtest.result.stored import Stored

SCHEMA = 1


@dataclass(frozen=True)
class Gap:
    """Time without new text of the streams that continued elsewhere."""

    median_ms: int
    longest_ms: int


@dataclass(frozen=True)
class ResumingResult(Stored):
    """Live streams from which a command removed a server, and the verdict."""

    NOUN: ClassVar[str] = "streams that lose their server"

    schema: int
    kind: Literal["resuming"]
    passes: bool
    reasons: list[str]
    """Reasons why it fails."""
    command: list[str]
    """Command that removed the server, in the middle of the streams."""
    streams: int
    failures: dict[str, int]
    """Number of failed streams, by kind of error."""
    carried_on: int
    """Number of times that a stream continued on another server."""
    gap: Gap | None
    """`None` if no stream continued elsewhere."""
    words: int
    """Words of the same streams, undisturbed."""
    missing_words: int
    changed_words: int
    """Words that are missing, different or additional."""
    conditions: Conditions
