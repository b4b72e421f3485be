"""Errors of one chunk, and errors of a whole stage.

StageError
├── BadStage          config and exported files contradict each other: the model does not load
└── ChunkError        one request fails; the others of its batch do not
    ├── InvalidChunk      audio out of bounds, impossible length, audio after the end
    ├── UnknownStream     no state is held for this correlation id
    ├── ServerFull        every slot of the pool holds a live stream
    └── RunFailed         the engine failed on the batch
"""

from __future__ import annotations


class StageError(Exception):
    """Base of all errors of this package."""


class BadStage(StageError):
    """The model config, its parameters and the exported files contradict each other."""


class ChunkError(StageError):
    """One request cannot be answered."""


class InvalidChunk(ChunkError):
    """The request's content breaks the stage's rules."""


class UnknownStream(ChunkError):
    """A chunk continues a stream for which no state is held."""


class ServerFull(ChunkError):
    """A stream cannot start because all slots are taken."""


class RunFailed(ChunkError):
    """The engine raised while it ran the batch."""
