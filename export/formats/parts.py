"""Split a model with pooled state into parts that can be recorded as CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from export.formats.onnx_file import TORCH_DTYPES, example
from export.spec import StageSpec, TensorSpec
from export.stages.adapters import AdapterPlan
from export.stages.decoder import Decoder
from export.stages.layout import AdapterLayout, StateLayout
from export.stages.looped import ROUNDS, AfterLoop, BeforeLoop, Rounds, fewest_rounds
from export.stages.state import PooledStages, Stage

FORMAT = 2
MODEL, ROUNDS_PART, END = "model", "rounds", "end"
BATCH = "batch"


@dataclass(frozen=True)
class Part:
    """A module of a model, with example arguments."""

    name: str
    """MODEL, ROUNDS_PART or END, and the stem of its file."""
    module: nn.Module
    arguments: tuple[Tensor, ...]
    axes: tuple[str, ...]
    """The meaning of the free first axis of each argument: BATCH, or the rows of a pool."""
    second_axes: tuple[Any, ...] = ()
    """The free second axis of each argument, or None; empty if no argument has one."""

    @property
    def shapes(self) -> tuple[dict[int, Any], ...]:
        """Return the free axes of the arguments, for `torch.export`."""
        seconds = self.second_axes or (None,) * len(self.axes)
        return tuple(
            {0: Dim(axis)} | ({} if second is None else {1: second})
            for axis, second in zip(self.axes, seconds, strict=True)
        )


def parts_of(stages: Sequence[Stage], spec: StageSpec, adapter_rank: int = 0) -> list[Part]:
    """Return the parts of `stages`, run one after the other, as the model `spec`.

    MODEL takes the inputs of `spec`, a pool float [slots * rows, width] for each stage and SLOTS
    int64 [B]. Without a decoder it is the only part, and returns the outputs of `spec` and then,
    for each stage, new values [B, U, width] and their rows int64 [B, U]. A decoder's loop is split
    off (see `export.stages.looped`): MODEL runs up to it, ROUNDS_PART runs a few rounds of it, END
    completes the chunk.

    With adapters of rank `adapter_rank`, MODEL also takes their pools and the slots of the
    streams' adapters; see `PooledStages`.
    """
    arguments, axes = _arguments(stages, spec, adapter_rank)
    *before, last = stages
    if not isinstance(last, Decoder):
        return [Part(MODEL, PooledStages(stages, adapter_rank).eval(), arguments, axes)]
    opening = BeforeLoop(before, last, adapter_rank).eval()
    with torch.no_grad():
        values = opening(*arguments)[: -2 * len(before) or None]
    batched = (BATCH,) * len(values)
    return [
        Part(MODEL, opening, arguments, axes),
        Part(ROUNDS_PART, Rounds(last, adapter_rank).eval(), values, batched),
        Part(END, AfterLoop(last, adapter_rank).eval(), values, batched),
    ]


def _arguments(
    stages: Sequence[Stage], spec: StageSpec, adapter_rank: int
) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """Return example arguments of MODEL, and the meaning of the first axis of each."""
    found: list[tuple[Tensor, str]] = [(example(tensor), BATCH) for tensor in spec.inputs]
    for index, layout in enumerate(stage.layout for stage in stages):
        pool = torch.zeros(3 * layout.rows, layout.width, dtype=TORCH_DTYPES[layout.dtype])
        found.append((pool, f"pool_rows_{index}"))
    found.append((torch.tensor([0, 2]), BATCH))
    found += adapter_arguments([stage.adapter_plan(adapter_rank) for stage in stages])
    arguments, axes = zip(*found, strict=True)
    return arguments, axes


def adapter_arguments(plans: Sequence[AdapterPlan | None]) -> list[tuple[Tensor, str]]:
    """Return example arguments of MODEL for adapters, and the meaning of the first axis of each.

    These are a pool for each stage with a plan, and then the slots; none if no stage has a plan.
    """
    layouts = [plan.layout for plan in plans if plan]
    found = [
        (
            torch.zeros(3 * layout.rows, layout.width, dtype=TORCH_DTYPES[layout.dtype]),
            f"adapter_rows_{index}",
        )
        for index, layout in enumerate(layouts)
    ]
    # A separate tensor: a tensor that is passed twice would be traced as one input.
    return [*found, (torch.tensor([0, 2]), BATCH)] if found else []


def description_of(
    stages: Sequence[Stage], spec: StageSpec, precision: str, adapter_rank: int = 0
) -> dict[str, Any]:
    """Return the facts that the backend needs but cannot read from the parts."""
    last = stages[-1]
    rounds = fewest_rounds(last) if isinstance(last, Decoder) else 0
    return {
        "format": FORMAT,
        "precision": precision,
        "inputs": [tensor_entry(tensor) for tensor in spec.inputs],
        "outputs": [tensor_entry(tensor) for tensor in spec.outputs],
        "pools": [pool_entry(stage.layout) for stage in stages],
        "adapter_pools": [
            pool_entry(plan.layout)
            for stage in stages
            if (plan := stage.adapter_plan(adapter_rank))
        ],
        # Runs of ROUNDS_PART before the first check for the end of the loop; 0 without a loop.
        "runs_of_rounds": -(-rounds // ROUNDS),
    }


def pool_entry(layout: StateLayout | AdapterLayout) -> dict[str, Any]:
    """Return the entry of a description for the pool of a state or of adapters."""
    return {
        "rows": layout.rows,
        "width": layout.width,
        "dtype": _dtype_name(layout.dtype),
    }


def tensor_entry(tensor: TensorSpec) -> dict[str, Any]:
    """Return the entry of a description for a tensor."""
    return {
        "name": tensor.name,
        "dtype": _dtype_name(tensor.dtype),
        "dims": list(tensor.dims),
    }


def _dtype_name(triton_name: str) -> str:
    return str(TORCH_DTYPES[triton_name]).removeprefix("torch.")
