"""The JSON document of the faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions
from loadtest.result.stored import Stored

SCHEMA = 1


@dataclass(frozen=True)
class Fault:
    """A signal to a process of the server, and what followed."""

    signal: str
    process: str
    """`launcher`, or the instance of a stage."""
    ended_s: float
    """From the signal to the end of the whole server."""
    exit_code: int
    said: str
    """The last line that the launcher wrote."""
    open_streams: int
    """Streams that were live when the signal came."""
    finished_streams: int
    """Those that went on to their end, with the text of an undisturbed stream."""
    refusal_ms: float | None
    """How long a new stream waited for `ServerDraining` after SIGTERM to the launcher."""


@dataclass(frozen=True)
class DeadPath:
    """The TCP connection of live streams went silent without an end, and what followed.

    The client has its default timeouts; new connections reach the server.
    """

    open_streams: int
    """Streams that were live on the connection."""
    resumed_streams: int
    """Those that the client carried on over another connection, to their end."""
    right_streams: int
    """Those of them with the text of an undisturbed stream."""
    recovered_s: list[float]
    """For each resumed stream, from the silence to the next text."""


@dataclass(frozen=True)
class FaultsResult(Stored):
    """All faults of a run."""

    NOUN: ClassVar[str] = "faults"

    schema: int
    kind: Literal["faults"]
    faults: list[Fault]
    conditions: Conditions
    dead_path: DeadPath | None = None
    """None in records from before it was measured."""
