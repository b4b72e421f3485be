"""The shapes that an engine is built for: of chunks one, of whole utterances one per bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from export.offline.spec import OfflineSpec
from export.spec import StageSpec

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Batches of one kind, from a single row to `max_batch_size`; all other axes are fixed.

    - from 1: at night a stream is alone, and must not wait for company;
    - tuned for the largest: batches are full when the GPU is busy, and only then does speed count;
    - to the config's `max_batch_size`: Triton never sends more.
    """

    rows: Mapping[str, Dims]
    """Name of each input -> its shape without the batch."""
    max_batch_size: int

    def shapes(self, name: str) -> tuple[Dims, Dims, Dims]:
        """The smallest shape of an input, the one to tune for, and the largest."""
        one, most = (1, *self.rows[name]), (self.max_batch_size, *self.rows[name])
        return one, most, most


def chunk_profiles(stage: StageSpec, max_batch_size: int) -> list[Profile]:
    """For a streaming stage: one, since every chunk is of one length."""
    assert stage.state is not None
    rows = {tensor.name: tensor.dims for tensor in stage.inputs}
    return [Profile({**rows, "STATE": (stage.state.size,)}, max_batch_size)]


def bucket_profiles(stage: StageSpec, spec: OfflineSpec) -> list[Profile]:
    """For an offline stage: one for each bucket, whose length is fixed in it.

    Clients pad to the buckets, so no other length comes; and a kernel that knows the length is
    faster than one that must do for all from two seconds to thirty.
    """
    values, length = stage.inputs
    return [
        Profile(
            {values.name: (steps, *values.dims[1:]), length.name: length.dims},
            spec.serving.max_batch_size,
        )
        for steps in spec.lengths(stage.inputs)
    ]
