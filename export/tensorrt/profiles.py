"""Define the shapes for which an engine is built: one profile for chunks, one per bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from export.offline.spec import OfflineSpec
from export.spec import StageSpec

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Shapes of batches from one row to `max_batch_size`; all other axes are fixed.

    - from 1: a single stream must not wait for a batch;
    - tuned for the largest: batches are full when the GPU is busy, and only then speed matters;
    - up to the config's `max_batch_size`: Triton never sends more.
    """

    rows: Mapping[str, Dims]
    """Shape of each input without the batch, by name."""
    max_batch_size: int
    pools: Mapping[str, Dims] = field(default_factory=dict[str, Dims])
    """Whole shape of each input that is a pool of states, by name."""

    @property
    def names(self) -> list[str]:
        """Return the names of all inputs."""
        return [*self.rows, *self.pools]

    def shapes(self, name: str) -> tuple[Dims, Dims, Dims]:
        """Return the smallest, the optimal and the largest shape of an input."""
        if name in self.pools:
            shape = self.pools[name]
            return shape, shape, shape
        one, most = (1, *self.rows[name]), (self.max_batch_size, *self.rows[name])
        return one, most, most


def chunk_profiles(stage: StageSpec, max_batch_size: int) -> list[Profile]:
    """Return the profile of a streaming stage: one, since all chunks have the same length."""
    assert stage.state is not None
    rows = {tensor.name: tensor.dims for tensor in stage.inputs}
    return [Profile({**rows, "STATE": (stage.state.size,)}, max_batch_size)]


def bucket_profiles(stage: StageSpec, spec: OfflineSpec) -> list[Profile]:
    """Return the profiles of an offline stage: one for each bucket, with its length fixed.

    Clients pad to the buckets, so there are no other lengths, and a kernel for one length is faster
    than one for all lengths from two to thirty seconds.
    """
    values, length = stage.inputs
    return [
        Profile(
            {values.name: (steps, *values.dims[1:]), length.name: length.dims},
            spec.serving.max_batch_size,
        )
        for steps in spec.lengths(stage.inputs)
    ]
