"""The JSON document of an overload test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions, Latency
from loadtest.result.stored import Stored

SCHEMA = 1


@dataclass(frozen=True)
class Second:
    """One second of an overload test."""

    live: int
    """Admitted streams that were open."""
    refused: int
    p99_ms: float
    """p99 latency of the chunks that were due; 0 if none was."""


@dataclass(frozen=True)
class OverloadResult(Stored):
    """An overload test and its verdict."""

    NOUN: ClassVar[str] = "an overload"

    schema: int
    kind: Literal["overload"]
    passes: bool
    reasons: list[str]
    """Reasons why it fails."""
    chunk_share: float | None
    """`--chunk-share` of the server that was started for it; `None` for a running server."""
    users: int
    """Users who wanted a live stream at the same time."""
    arrival_s: float
    hold_s: float
    live_mean: float
    """Streams open during the hold, on average."""
    chunk_latency: Latency
    """Latency of the admitted streams' chunks during the hold."""
    refusal_latency: Latency
    """Time from a request to its refusal, during the whole test."""
    p99_ms: float
    """The limit of `chunk_latency.p99_ms`."""
    refusal_p99_ms: float
    """The limit of `refusal_latency.p99_ms`."""
    failures: dict[str, int]
    """Streams that failed after they were admitted, by kind of error."""
    transcripts_compared: int
    transcripts_different: int
    seconds: list[Second]
    """The seconds since the first arrival."""
    conditions: Conditions
