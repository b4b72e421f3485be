"""The JSON document of the faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions
from loadtest.result.stored import Stored

SCHEMA = 1


@dataclass(frozen=True)
class Fault:
    """A signal to a process of the server, and its consequences."""

    signal: str
    process: str
    """`launcher`, or the instance of a stage."""
    ended_s: float
    """Seconds from the signal to the end of the whole server."""
    exit_code: int
    said: str
    """The last line that the launcher wrote."""
    open_streams: int
    """Streams that were live at the time of the signal."""
    finished_streams: int
    """Streams that continued to their end, with the text of an undisturbed stream."""
    refusal_ms: float | None
    """Latency of `ServerDraining` for a new stream after SIGTERM to the launcher."""


@dataclass(frozen=True)
class DeadPath:
    """A silent TCP connection of live streams that never ended, and its consequences.

    The client has its default timeouts; new connections reach the server.
    """

    open_streams: int
    """Streams that were live on the connection."""
    resumed_streams: int
    """Streams that the client continued over another connection, to their end."""
    right_streams: int
    """Resumed streams with the text of an undisturbed stream."""
    recovered_s: list[float]
    """For each resumed stream, the seconds from the silence to the next text."""


@dataclass(frozen=True)
class FaultsResult(Stored):
    """All faults of a run."""

    NOUN: ClassVar[str] = "faults"

    schema: int
    kind: Literal["faults"]
    faults: list[Fault]
    conditions: Conditions
    dead_path: DeadPath | None = None
    """None in records that were written before this was measured."""
