"""Read and write the state of a stage's streams: rows of one flat tensor per stream.

A stage does not depend on where its state is kept. It reads blocks of rows and returns an `Update`:
new values for some of its rows. There are two ways to keep it:

- `FlatState`: the state arrives and leaves as one tensor per stream, `[B, rows * width]`
  (Triton's implicit state, TensorRT).
- `PooledState`: the states of all streams are in one pool, `[slots * rows, width]`; the stage
  gathers the rows that it needs, and the caller writes updated rows back (the bundled backend). The
  large, mostly unchanged part of a state (the attention keys and values) is then read once and
  never copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from export.stages.adapters import (
    AdaptedModule,
    Adapters,
    PooledAdapters,
    split_off_adapters,
)
from export.stages.layout import StateLayout


@dataclass(frozen=True)
class Update:
    """New values of some rows: `values` [B, U, width] belong at `rows` int64 [B, U].

    First come the replaced rows of the layout, in order, then one block of each ring.
    """

    rows: Tensor
    values: Tensor


class State(Protocol):
    """Access of a stage to its state."""

    def read(self, start: int, count: int) -> Tensor:
        """Return rows `start .. start + count` of every stream of the batch: [B, count, width]."""
        ...


class FlatState:
    """State in one tensor `[B, rows * width]`."""

    def __init__(self, state: Tensor, layout: StateLayout) -> None:
        self._layout = layout
        self._rows = state.reshape(-1, layout.rows, layout.width)

    def read(self, start: int, count: int) -> Tensor:
        """Return rows of every stream; see `State.read`."""
        return self._rows[:, start : start + count]

    def replace(self, update: Update) -> Tensor:
        """Return the next state `[B, rows * width]`: this one with the updated rows replaced.

        It uses a `where` per ring value instead of a scatter: a runtime can fuse element-wise work,
        and there is no index tensor whose shape depends on the batch.
        """
        layout = self._layout
        replaced = update.values[:, : layout.replaced_rows].flatten(1)
        if not layout.rings:
            return replaced
        rings = self._rows[:, layout.replaced_rows :]
        rings = rings.unflatten(1, (layout.rings, layout.ring_blocks))
        written = update.rows[:, layout.replaced_rows, None] - layout.replaced_rows
        block = torch.arange(layout.ring_blocks, device=rings.device)
        here = (block == written)[:, None, :, None]
        new_blocks = update.values[:, layout.replaced_rows :, None]
        return torch.cat([replaced, torch.where(here, new_blocks, rings).flatten(1)], dim=1)


class PooledState:
    """State gathered from `pool` [slots * rows, width] by `slots` int64 [B]."""

    def __init__(self, pool: Tensor, slots: Tensor, layout: StateLayout) -> None:
        self.pool = pool
        self.first_row = (slots * layout.rows)[:, None]

    def read(self, start: int, count: int) -> Tensor:
        """Return rows of every stream; see `State.read`."""
        rows = self.first_row + torch.arange(start, start + count, device=self.pool.device)
        return self.pool.index_select(0, rows.flatten()).reshape(*rows.shape, -1)


class Stage(AdaptedModule):
    """A pure function `(inputs, state) -> (outputs, update)` of one chunk of every stream."""

    layout: StateLayout

    def step(
        self, *inputs: Tensor, state: State, adapters: Adapters | None = None
    ) -> tuple[tuple[Tensor, ...], Update]:
        """Process one chunk of a batch of streams."""
        raise NotImplementedError


class FlatStage(nn.Module):
    """`stage` as `(*inputs, STATE) -> (*outputs, NEXT_STATE)`."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *inputs_and_state: Tensor) -> tuple[Tensor, ...]:
        """Process one chunk; the last input and output are the state, [B, rows * width]."""
        *inputs, flat = inputs_and_state
        state = FlatState(flat, self.stage.layout)
        outputs, update = self.stage.step(*inputs, state=state)
        return *outputs, state.replace(update)


class PooledStages(nn.Module):
    """`stages` one after the other: `(*inputs, *pools, SLOTS) -> (*outputs, *updates)`.

    One pool for each stage; each update is a pair: new values [B, U, width] and the rows int64
    [B, U] of each stream that they belong to. Outputs of a stage are the inputs of the next.

    With adapters of rank `adapter_rank`, SLOTS is followed by the pools of the stages with
    adapters, and by the slots of the streams' adapters.
    """

    def __init__(self, stages: Sequence[Stage], adapter_rank: int = 0) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self._plans = [stage.adapter_plan(adapter_rank) for stage in stages]

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Process one chunk; see the class."""
        values, updates = run_in_a_row(*self.bind(arguments))
        return *values, *updates

    def bind(self, arguments: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], list[BoundStage]]:
        """Return the inputs, and each stage with its state and its streams' adapters."""
        arguments, adapters = split_off_adapters(arguments, self._plans)
        *rest, slots = arguments
        inputs = len(rest) - len(self.stages)
        stages = [
            BoundStage(cast(Stage, stage), pool, slots, its_adapters)
            for stage, pool, its_adapters in zip(self.stages, rest[inputs:], adapters, strict=True)
        ]
        return tuple(rest[:inputs]), stages


class BoundStage:
    """A stage with the state and the adapters of the streams of a batch."""

    def __init__(
        self, stage: Stage, pool: Tensor, slots: Tensor, adapters: PooledAdapters | None
    ) -> None:
        self.stage = stage
        self.state = PooledState(pool, slots, stage.layout)
        self.adapters = adapters


def run_in_a_row(
    values: tuple[Tensor, ...], stages: Sequence[BoundStage]
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Return the outputs of the last stage for `values`, and the updates of all."""
    updates: list[Tensor] = []
    for bound in stages:
        values, update = bound.stage.step(*values, state=bound.state, adapters=bound.adapters)
        updates += [update.values, update.rows]
    return values, updates


def all_rows(layout: StateLayout, like: Tensor) -> Tensor:
    """Return the row numbers [B, rows] of a whole state, for a batch like `like` [B, ...]."""
    rows = torch.arange(layout.rows, device=like.device)
    return rows[None].expand(like.shape[0], -1)


def whole_division(count: Tensor, divisor: int) -> Tensor:
    """Return `count // divisor` for counts from 0 to 2^20.

    `//` itself exports as a comparison of booleans, which TensorRT does not support.
    Adding 0.5 keeps rounding from lowering a whole quotient.
    """
    return ((count.float() + 0.5) / divisor).floor().to(count.dtype)
