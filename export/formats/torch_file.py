"""Write stages to programs of `torch.export`, which the bundled backend runs on a GPU.

A program holds graph and weights and is opened with torch alone, so that the server does not need
this package. It is traced on the CPU in the precision that it will run in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from export.formats.onnx_file import TORCH_DTYPES, example, silenced
from export.spec import StageSpec, TensorSpec
from export.stages.decoder import Decoder
from export.stages.encoder import Encoder
from export.stages.fused_encoder import FusedEncoder
from export.stages.layout import AdapterLayout, StateLayout
from export.stages.looped import ROUNDS, AfterLoop, BeforeLoop, Rounds, fewest_rounds
from export.stages.state import PooledStages, Stage

FORMAT = 2
MODEL, ROUNDS_FILE, END = "model.pt2", "rounds.pt2", "end.pt2"
DESCRIPTION = "earshot.json"


def export_torch(
    stages: Sequence[Stage], spec: StageSpec, folder: Path, precision: str, adapter_rank: int = 0
) -> None:
    """Write `stages`, run in a row, as the model `spec` into `folder`.

    An encoder is written as a `FusedEncoder`.

    `model.pt2` takes the inputs of `spec`, a pool float [slots * rows, width] for each stage
    and SLOTS int64 [B]. Without a decoder it returns the outputs of `spec` and then, for each
    stage, new values [B, U, width] and their rows int64 [B, U]. A decoder's loop is
    cut (see `export.stages.looped`): `model.pt2` runs up to it, `rounds.pt2` runs a
    few rounds of it, `end.pt2` completes the chunk.

    With adapters of rank `adapter_rank`, `model.pt2` also takes their pools and the slots of the
    streams' adapters; see `PooledStages`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stages = [FusedEncoder(stage) if isinstance(stage, Encoder) else stage for stage in stages]
    arguments, shapes = _examples(stages, spec, adapter_rank)
    *before, last = stages
    description = _description(stages, spec, precision, adapter_rank)
    with torch.no_grad(), silenced():
        if not isinstance(last, Decoder):
            whole = PooledStages(stages, adapter_rank)
            _save(whole, arguments, shapes, folder / MODEL, description)
            return
        opening = BeforeLoop(before, last, adapter_rank).eval()
        _save(opening, arguments, shapes, folder / MODEL, description)
        loop_values = opening(*arguments)[: -2 * len(before) or None]
        batched = tuple({0: Dim("batch")} for _ in loop_values)
        _save(Rounds(last, adapter_rank), loop_values, batched, folder / ROUNDS_FILE, {})
        _save(AfterLoop(last, adapter_rank), loop_values, batched, folder / END, {})


def _save(
    module: nn.Module, arguments: tuple[Tensor, ...], shapes: Any, path: Path, description: Any
) -> None:
    program: ExportedProgram = torch.export.export(
        module.eval(), arguments, dynamic_shapes=(shapes,), strict=False
    )
    torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(description)})


def _examples(
    stages: Sequence[Stage], spec: StageSpec, adapter_rank: int
) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Return arguments of the model, and the free axes of each."""
    batch = {0: Dim("batch")}
    found: list[tuple[Tensor, dict[int, Any]]] = [(example(x), batch) for x in spec.inputs]
    for index, layout in enumerate(stage.layout for stage in stages):
        pool = torch.zeros(3 * layout.rows, layout.width, dtype=TORCH_DTYPES[layout.dtype])
        found.append((pool, {0: Dim(f"pool_rows_{index}")}))
    found.append((torch.tensor([0, 2]), batch))
    plans = [plan for stage in stages if (plan := stage.adapter_plan(adapter_rank))]
    for index, plan in enumerate(plans):
        pool = torch.zeros(3 * plan.layout.rows, plan.layout.width, dtype=plan.dtype)
        found.append((pool, {0: Dim(f"adapter_rows_{index}")}))
    if plans:
        # Not the same tensor as above, which would be traced as one input.
        found.append((torch.tensor([0, 2]), batch))
    arguments, shapes = zip(*found, strict=True)
    return arguments, shapes


def _description(
    stages: Sequence[Stage], spec: StageSpec, precision: str, adapter_rank: int
) -> dict[str, Any]:
    """Return the facts that the backend needs and cannot read from the program."""
    last = stages[-1]
    rounds = fewest_rounds(last) if isinstance(last, Decoder) else 0
    return {
        "format": FORMAT,
        "precision": precision,
        "inputs": [_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
        "pools": [_pool(stage.layout) for stage in stages],
        "adapter_pools": [
            _pool(plan.layout) for stage in stages if (plan := stage.adapter_plan(adapter_rank))
        ],
        # Runs of rounds.pt2 before the first check for the end of the loop; 0 without a loop.
        "runs_of_rounds": -(-rounds // ROUNDS),
    }


def _pool(layout: StateLayout | AdapterLayout) -> dict[str, Any]:
    return {
        "rows": layout.rows,
        "width": layout.width,
        "dtype": _dtype_name(layout.dtype),
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": _dtype_name(tensor.dtype),
        "dims": list(tensor.dims),
    }


def _dtype_name(triton_name: str) -> str:
    return str(TORCH_DTYPES[triton_name]).removeprefix("torch.")
