"""Hold the requests of one `execute` call of Triton as columns, and their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from .errors import ChunkError

# The rows of one request in each output of the stage, in the config's order.
Rows = tuple[npt.NDArray[Any], ...]
Outcome = Rows | ChunkError


@dataclass(frozen=True)
class Chunks:
    """One entry per request in every list; `inputs` has one list per input of the config."""

    streams: list[int]
    starts: list[bool]
    ends: list[bool]
    inputs: list[list[npt.NDArray[Any]]]
    adapters: list[str]
    """The adapter that a starting stream asks for; "" for none, and for later chunks."""
    canaries: list[bool]
    """True for a test chunk of the launcher, which is a whole stream."""

    def __len__(self) -> int:
        return len(self.streams)

    def pick(self, indices: Sequence[int]) -> Chunks:
        """Return some of the requests, in the given order."""
        return Chunks(
            [self.streams[i] for i in indices],
            [self.starts[i] for i in indices],
            [self.ends[i] for i in indices],
            [[column[i] for i in indices] for column in self.inputs],
            [self.adapters[i] for i in indices],
            [self.canaries[i] for i in indices],
        )


def rounds(streams: Sequence[int]) -> list[list[int]]:
    """Split a batch so that no stream is in a round twice; order within a stream is kept.

    A client that has two chunks of one stream in flight may find both in one batch. The second
    needs the state that the first leaves behind.
    """
    seen: dict[int, int] = {}
    split: list[list[int]] = []
    for index, stream in enumerate(streams):
        turn = seen[stream] = seen.get(stream, -1) + 1
        if turn == len(split):
            split.append([])
        split[turn].append(index)
    return split
