"""The JSON document of an overload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions, Latency
from loadtest.result.stored import Stored

SCHEMA = 1


@dataclass(frozen=True)
class Second:
    """One second of an overload."""

    live: int
    """Streams that were admitted and open."""
    refused: int
    p99_ms: float
    """Of the chunks that were due; 0 if none was."""


@dataclass(frozen=True)
class OverloadResult(Stored):
    """An overload and its verdict."""

    NOUN: ClassVar[str] = "an overload"

    schema: int
    kind: Literal["overload"]
    passes: bool
    reasons: list[str]
    """Why it fails."""
    chunk_share: float | None
    """Of the server that was started for it; `None` for a server that was there."""
    users: int
    """Who wanted a live stream at the same time."""
    arrival_s: float
    hold_s: float
    live_mean: float
    """Streams open during the hold, on average."""
    chunk_latency: Latency
    """Of the admitted streams, during the hold."""
    refusal_latency: Latency
    """From asking to the refusal, all the time."""
    p99_ms: float
    """The bound of `chunk_latency.p99_ms`."""
    refusal_p99_ms: float
    """The bound of `refusal_latency.p99_ms`."""
    failures: dict[str, int]
    """Streams that failed after they were admitted, by kind of error."""
    transcripts_compared: int
    transcripts_different: int
    seconds: list[Second]
    """From the first arrival."""
    conditions: Conditions
