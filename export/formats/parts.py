"""Cut a model of the bundled backend's pool into parts that can be recorded as CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from export.formats.onnx_file import TORCH_DTYPES, example
from export.spec import StageSpec, TensorSpec
from export.stages.decoder import Decoder
from export.stages.looped import ROUNDS, AfterLoop, BeforeLoop, Rounds, fewest_rounds
from export.stages.state import PooledStages, Stage

FORMAT = 1
MODEL, ROUNDS_PART, END = "model", "rounds", "end"


@dataclass(frozen=True)
class Part:
    """A module of a model, with example arguments; the first axis of each argument is free."""

    name: str
    """MODEL, ROUNDS_PART or END, and the stem of its file."""
    module: nn.Module
    arguments: tuple[Tensor, ...]
    pools: int = 0
    """The number of pools, which lie before the last argument."""

    @property
    def shapes(self) -> tuple[dict[int, Any], ...]:
        """Return the free axes of the arguments, for `torch.export`."""
        batch = {0: Dim("batch")}
        if not self.pools:
            return (batch,) * len(self.arguments)
        inputs = [batch] * (len(self.arguments) - self.pools - 1)
        return *inputs, *({0: Dim(f"pool_rows_{pool}")} for pool in range(self.pools)), batch


def parts_of(stages: Sequence[Stage], spec: StageSpec) -> list[Part]:
    """Return the parts of `stages`, run in a row, as the model `spec`.

    MODEL takes the inputs of `spec`, a pool float [slots * rows, width] for each stage
    and SLOTS int64 [B]. Without a decoder it is the only part, and returns the outputs of `spec`
    and then, for each stage, new values [B, U, width] and their rows int64 [B, U]. A decoder's loop
    is cut (see `export.stages.looped`): MODEL runs up to it, ROUNDS_PART runs a few rounds of it,
    END completes the chunk.
    """
    arguments = _arguments(stages, spec.inputs)
    *before, last = stages
    if not isinstance(last, Decoder):
        return [Part(MODEL, PooledStages(stages).eval(), arguments, len(stages))]
    opening = BeforeLoop(before, last).eval()
    with torch.no_grad():
        loop_values = opening(*arguments)[: -2 * len(before) or None]
    return [
        Part(MODEL, opening, arguments, len(stages)),
        Part(ROUNDS_PART, Rounds(last).eval(), loop_values),
        Part(END, AfterLoop(last).eval(), loop_values),
    ]


def _arguments(stages: Sequence[Stage], inputs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    pools = [
        torch.zeros(
            3 * stage.layout.rows, stage.layout.width, dtype=TORCH_DTYPES[stage.layout.dtype]
        )
        for stage in stages
    ]
    return *map(example, inputs), *pools, torch.tensor([0, 2])


def description_of(stages: Sequence[Stage], spec: StageSpec, precision: str) -> dict[str, Any]:
    """Return the facts that the backend needs and cannot read from the parts."""
    last = stages[-1]
    rounds = fewest_rounds(last) if isinstance(last, Decoder) else 0
    return {
        "format": FORMAT,
        "precision": precision,
        "inputs": [_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
        "pools": [
            {
                "rows": stage.layout.rows,
                "width": stage.layout.width,
                "dtype": _dtype_name(stage.layout.dtype),
            }
            for stage in stages
        ],
        # Runs of ROUNDS_PART before the first check for the end of the loop; 0 without a loop.
        "runs_of_rounds": -(-rounds // ROUNDS),
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": _dtype_name(tensor.dtype),
        "dims": list(tensor.dims),
    }


def _dtype_name(triton_name: str) -> str:
    return str(TORCH_DTYPES[triton_name]).removeprefix("torch.")
