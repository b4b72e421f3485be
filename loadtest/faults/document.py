"""The JSON document of the faults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from loadtest.result.document import Conditions
from loadtest.result.files import write_whole

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
class FaultsResult:
    """All faults of a run."""

    schema: int
    kind: Literal["faults"]
    faults: list[Fault]
    conditions: Conditions

    def write(self, path: Path) -> None:
        """Write the document."""
        write_whole(path, _adapter.dump_json(self, indent=1).decode() + "\n")

    @classmethod
    def from_json(cls, path: Path) -> FaultsResult:
        """Read a document.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not the document of the faults.
        """
        try:
            return _adapter.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is not the result of faults: {error}") from error


_adapter = TypeAdapter(FaultsResult)
