"""Errors of one chunk, and errors of a whole stage.

StageError
├── BadStage          config and exported files contradict each other: the model does not load
└── ChunkError        one request fails; the others of its batch do not
    ├── InvalidChunk      audio out of bounds, impossible length, audio after the end
    ├── UnknownStream     no stream with this correlation id is open
    ├── ServerFull        every slot of the pool holds a live stream
    ├── AdaptersFull      every slot for adapters holds one that a live stream uses
    ├── UnknownAdapter    the adapter that a request names does not exist
    ├── BadAdapter        the adapter cannot be read, or does not fit the model
    ├── Saturated         the engine is too busy for another stream
    ├── NotFinite         the stage computed NaN or infinity for the chunk
    ├── EarlierStageFailed  a stage before this one failed on the last chunk of the stream
    └── RunFailed         the engine failed on the batch
"""

from __future__ import annotations

import sys
import traceback


class StageError(Exception):
    """Base of all errors of this package."""


class BadStage(StageError):
    """The model config, its parameters and the exported files contradict each other."""


class ChunkError(StageError):
    """One request cannot be answered."""


class InvalidChunk(ChunkError):
    """The request's content breaks the stage's rules."""


class UnknownStream(ChunkError):
    """A chunk continues a stream that is not open."""


class ServerFull(ChunkError):
    """A stream cannot start because all slots are taken."""


class AdaptersFull(ChunkError):
    """A stream cannot start because there is no room for its adapter."""


class UnknownAdapter(ChunkError):
    """A stream or a file asks for an adapter that is not installed."""


class BadAdapter(ChunkError):
    """A stream or a file asks for an adapter that this model cannot use."""


class Saturated(ChunkError):
    """A stream cannot start because the chunks of the open ones would come late."""


class NotFinite(ChunkError):
    """The stage computed NaN or infinity for the chunk."""


class EarlierStageFailed(ChunkError):
    """A stage before this one failed on the last chunk of the stream."""


class EngineFailed(Exception):
    """The engine failed in its own process; the text is the kind of the error there."""


class RunFailed(ChunkError):
    """The engine raised while it ran the batch."""

    @classmethod
    def of(cls, error: Exception, rows: int, what: str = "the engine") -> RunFailed:
        """Write `error` to the log, and return an error without it for the clients.

        Errors of the engines' libraries are long, and contain paths of the server.
        """
        print(f"a batch of {rows} failed:", file=sys.stderr)
        traceback.print_exception(error)
        kind = str(error) if isinstance(error, EngineFailed) else type(error).__name__
        return cls(
            f"{what} failed on a batch of {rows} ({kind}); the server's log holds the details"
        )
