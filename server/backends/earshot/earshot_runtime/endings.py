"""Pass the refusal of a stream's last chunk on to the later stages, so that they free the stream.

An error response ends a request at its stage. The later stages would never get the END, and would
keep the stream until it is idle for too long. So the stage answers with an impossible length; the
next stage refuses it, frees the stream and passes it on, until the last one turns it into an error
for the client.
"""

from __future__ import annotations

import numpy as np

from .chunks import Chunks, Rows
from .errors import ChunkError, EarlierStageFailed, InvalidChunk, NotFinite, RunFailed
from .spec import StageSpec

REFUSED, FAILED = -1, -2
"""Lengths that stand for a chunk that was refused, and for one on which a stage failed."""


def passed_on(length: int) -> ChunkError | None:
    """Return the error that an earlier stage passed on as `length`; None for a real length."""
    if length == FAILED:
        return EarlierStageFailed("a stage failed on the last chunk; the server's log says why")
    if length == REFUSED:
        return InvalidChunk(
            "the last chunk is refused, and its stream has ended: its samples hold NaN or are out "
            "of bounds, its length is impossible, or audio came after a chunk that was not full"
        )
    return None


class Endings:
    """Builds the rows with which a stage answers an END that it refuses."""

    def __init__(self, spec: StageSpec) -> None:
        self._outputs = spec.outputs
        self._length_output = spec.length_output
        names = [tensor.name for tensor in spec.inputs]
        self._length_input = names.index(spec.length_input) if spec.length_input else None

    def pass_on(self, error: ChunkError, chunks: Chunks, row: int) -> Rows | ChunkError:
        """Return the rows for the next stage in place of `error`, or an error for the client.

        Errors of a START, or of a stream that is not open here, are not passed on: later stages do
        not have such a stream.
        """
        waited_for = chunks.ends[row] and not chunks.starts[row]
        if not waited_for or not isinstance(error, (InvalidChunk, NotFinite, RunFailed)):
            return error
        length = self._length(chunks, row)
        if self._length_output is None:
            return passed_on(length) or error
        rows = {tensor.name: np.zeros((1, *tensor.dims), tensor.dtype) for tensor in self._outputs}
        rows[self._length_output][:] = self._code(error, length)
        return tuple(rows.values())

    def _length(self, chunks: Chunks, row: int) -> int:
        if self._length_input is None:
            return 0
        return int(chunks.inputs[self._length_input][row].item())

    def _code(self, error: ChunkError, length: int) -> int:
        if length in (REFUSED, FAILED):
            return length
        return REFUSED if isinstance(error, InvalidChunk) else FAILED
