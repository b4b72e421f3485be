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
class FaultsResult(Stored):
    """All faults of a run."""

    NOUN: ClassVar[str] = "faults"

    schema: int
    kind: Literal["faults"]
    faults: list[Fault]
    conditions: Conditions
