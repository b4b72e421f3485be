"""Add low-rank adapters to a stage: each stream of a batch has its own, or none.

An adapter changes projections (Hu et al. 2021, arXiv 2106.09685): `W x` becomes `W x + U D x`, with
two thin matrices. The matrices of all adapters are in one pool, `[adapters * rows, width]`; the
weights are shared by all streams. A run gathers the matrices of its streams and multiplies each
stream by its own. The first adapter of a pool is zero: it leaves the base unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from export.stages.layout import ADAPTER_COLUMNS, AdapterLayout

_DTYPES = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16"}
LowRank = tuple[Tensor, Tensor]
"""Two matrices of a layer of the checkpoint: `down` [rank, inputs] and `up` [outputs, rank]."""


@dataclass(frozen=True)
class Projection:
    """A linear layer of a stage that adapters change; it may join layers of the checkpoint."""

    names: tuple[str, ...]
    """The joined layers of the checkpoint, in the order of the outputs."""
    inputs: int
    outputs: int
    """Number of outputs of each joined layer."""
    frames: int | None
    """Rows of one stream that it processes at once; None if their number varies."""
    factors: tuple[float, ...]
    """Constants folded into the weights, one for each joined layer."""
    dtype: torch.dtype
    """Type of the weights."""

    @classmethod
    def of(
        cls, linear: nn.Linear, *names: str, frames: int | None, factors: Sequence[float] = ()
    ) -> Projection:
        """Describe a layer; by default all factors are 1."""
        return cls(
            names=names,
            inputs=linear.in_features,
            outputs=linear.out_features // len(names),
            frames=frames,
            factors=tuple(factors) or (1.0,) * len(names),
            dtype=linear.weight.dtype,
        )

    @property
    def name(self) -> str:
        """Return the name by which a stage refers to it: that of its first layer."""
        return self.names[0]

    def change(self, values: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """Return the adapters' contribution to the outputs for `values` [B * frames, inputs].

        `down` is [B, inputs, parts * rank] and `up` is [B, parts, rank, outputs]; with a single
        part, `up` has no axis of parts.
        """
        parts, rank = len(self.names), up.shape[-2]
        rows = (down.shape[0], -1) if self.frames is None else (-1, self.frames)
        low = values.reshape(*rows, self.inputs) @ down
        if parts == 1:
            return (low @ up).reshape(-1, self.outputs)
        apart = low.reshape(*rows, parts, rank).transpose(1, 2)
        return (apart @ up).transpose(1, 2).reshape(-1, parts * self.outputs)


class Adapters(Protocol):
    """The adapters of the streams of a batch."""

    def change(self, name: str, values: Tensor) -> Tensor:
        """Return the contribution to the outputs of the projection `name` for inputs `values`."""
        ...

    def gathered(self) -> tuple[Tensor, ...]:
        """Return the matrices of all projections, two for each, for repeated use."""
        ...


class AdapterPlan:
    """The layout of each projection's matrices in an adapter of rank `rank`."""

    def __init__(self, projections: Sequence[Projection], rank: int) -> None:
        self.projections = projections
        self.rank = rank
        self._width = rank * ADAPTER_COLUMNS
        self._first_row: list[int] = []
        rows = 0
        for size in (size for projection in projections for size in self._sizes(projection)):
            self._first_row.append(rows)
            rows += -(-size // self._width)
        self.dtype = projections[0].dtype
        self.layout = AdapterLayout(rows, self._width, _DTYPES[self.dtype])

    def pack(self, adapter: Mapping[str, LowRank]) -> Tensor:
        """Return the rows [rows, width] of an adapter, given by the names of the layers.

        A layer missing in the adapter is not changed; a smaller rank is padded with zeros.
        """
        packed = torch.zeros(self.layout.rows, self.layout.width)
        for index, projection in enumerate(self.projections):
            matrices = zip(self._matrices(projection, adapter), self._rows(index), strict=True)
            for matrix, row in matrices:
                packed[row:].view(-1)[: matrix.numel()] = matrix.flatten()
        return packed

    def _matrices(self, projection: Projection, adapter: Mapping[str, LowRank]) -> LowRank:
        """Return `down` [inputs, parts, rank] and `up` [parts, rank, outputs]."""
        parts = len(projection.names)
        down = torch.zeros(projection.inputs, parts, self.rank)
        up = torch.zeros(parts, self.rank, projection.outputs)
        named = zip(projection.names, projection.factors, strict=True)
        for part, (name, factor) in enumerate(named):
            if name in adapter:
                its_down, its_up = adapter[name]
                down[:, part, : len(its_down)] = its_down.T
                up[part, : len(its_down)] = factor * its_up.T
        return down, up

    def gather(self, projection: Projection, pool: Tensor, first_row: Tensor) -> LowRank:
        """Return the matrices of each stream for `Projection.change`.

        Args:
            first_row: the first row in `pool` of each stream's adapter, int64 [B, 1].
        """
        down_size, up_size = self._sizes(projection)
        down_row, up_row = self._rows(self.projections.index(projection))
        parts = len(projection.names)
        down = self._gather(pool, first_row + down_row, down_size)
        up = self._gather(pool, first_row + up_row, up_size)
        return (
            down.reshape(-1, projection.inputs, parts * self.rank),
            up.reshape(-1, *([parts] if parts > 1 else []), self.rank, projection.outputs),
        )

    def _gather(self, pool: Tensor, first_row: Tensor, size: int) -> Tensor:
        count = -(-size // self._width)
        rows = first_row + torch.arange(count, device=pool.device)
        gathered = pool.index_select(0, rows.flatten()).reshape(-1, count * self._width)
        return gathered if size == count * self._width else gathered[:, :size]

    def _sizes(self, projection: Projection) -> tuple[int, int]:
        both = len(projection.names) * self.rank
        return both * projection.inputs, both * projection.outputs

    def _rows(self, index: int) -> tuple[int, int]:
        return self._first_row[2 * index], self._first_row[2 * index + 1]


class PooledAdapters:
    """Adapters that are gathered from a pool at each use."""

    def __init__(self, plan: AdapterPlan, pool: Tensor, slots: Tensor) -> None:
        """Take the adapters in `slots` int64 [B] of `pool` [adapters * rows, width]."""
        self.plan = plan
        self._pool = pool
        self._first_row = (slots * plan.layout.rows)[:, None]

    def change(self, name: str, values: Tensor) -> Tensor:
        """See `Adapters.change`."""
        projection = next(p for p in self.plan.projections if p.name == name)
        return projection.change(values, *self._gather(projection))

    def gathered(self) -> tuple[Tensor, ...]:
        """See `Adapters.gathered`."""
        return tuple(
            matrix for projection in self.plan.projections for matrix in self._gather(projection)
        )

    def _gather(self, projection: Projection) -> LowRank:
        return self.plan.gather(projection, self._pool, self._first_row)


class GatheredAdapters:
    """Adapters whose matrices have been gathered."""

    def __init__(self, projections: Sequence[Projection], matrices: Sequence[Tensor]) -> None:
        """Take the matrices that `Adapters.gathered` returned."""
        self._projections = projections
        self._matrices = tuple(matrices)

    def change(self, name: str, values: Tensor) -> Tensor:
        """See `Adapters.change`."""
        index = next(i for i, p in enumerate(self._projections) if p.name == name)
        down, up = self._matrices[2 * index : 2 * index + 2]
        return self._projections[index].change(values, down, up)

    def gathered(self) -> tuple[Tensor, ...]:
        """See `Adapters.gathered`."""
        return self._matrices


def split_off_adapters(
    arguments: Sequence[Tensor], plans: Sequence[AdapterPlan | None]
) -> tuple[tuple[Tensor, ...], list[PooledAdapters | None]]:
    """Return the arguments of stages without those for adapters, and the adapters of each stage.

    Args:
        arguments: the last ones are the pool of each stage with a plan, and then the slots of the
            streams' adapters; if no stage has a plan, there are none of these.
        plans: the plan of each stage; None for a stage that adapters do not change.
    """
    pools = sum(plan is not None for plan in plans)
    if not pools:
        return tuple(arguments), [None] * len(plans)
    *rest, slots = arguments
    left = iter(rest[-pools:])
    return tuple(rest[:-pools]), [
        plan and PooledAdapters(plan, next(left), slots) for plan in plans
    ]


class AdaptedModule(nn.Module):
    """A module with linear layers that adapters may change."""

    def projections(self) -> tuple[Projection, ...]:
        """Return the layers that adapters change; by default there are none."""
        return ()

    def adapter_plan(self, rank: int) -> AdapterPlan | None:
        """Return the layout of an adapter; None if no layer can be changed, or `rank` is 0."""
        projections = self.projections() if rank else ()
        return AdapterPlan(projections, rank) if projections else None


def project(linear: nn.Linear, values: Tensor, adapters: Adapters | None, name: str) -> Tensor:
    """Return the outputs of the projection `name`, changed by adapters if there are any."""
    outputs = linear(values)
    return outputs if adapters is None else outputs + adapters.change(name, values)
