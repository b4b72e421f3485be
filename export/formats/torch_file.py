"""Write stages to programs of `torch.export`, which the bundled backend runs on a GPU.

A program contains graph and weights and needs only torch to be opened, so the server does not need
this package. It is traced on the CPU in the precision in which it will run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map_only

from export.formats.onnx_file import silenced, uncollected
from export.formats.parts import MODEL, Part, description_of, parts_of
from export.spec import StageSpec
from export.stages.encoder import Encoder
from export.stages.fused_encoder import FusedEncoder
from export.stages.state import Stage

SUFFIX = ".pt2"
DESCRIPTION = "earshot.json"


def export_torch(
    stages: Sequence[Stage], spec: StageSpec, folder: Path, precision: str, adapter_rank: int = 0
) -> None:
    """Write the parts of `stages`, run one after the other, as the model `spec` into `folder`.

    An encoder is written as a `FusedEncoder`. `model.pt2` also holds the description.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stages = fused(stages)
    description = description_of(stages, spec, precision, adapter_rank)
    with silenced():
        for part in parts_of(stages, spec, adapter_rank):
            save_part(part, folder, description if part.name == MODEL else {})


def fused(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages of a program, in which an encoder becomes a `FusedEncoder`."""
    return [FusedEncoder(stage) if isinstance(stage, Encoder) else stage for stage in stages]


def save_part(part: Part, folder: Path, description: Any) -> None:
    """Write a part of a model into `folder`, with a description of the model, if any."""
    with torch.no_grad(), uncollected():
        program: ExportedProgram = torch.export.export(
            part.module, part.arguments, dynamic_shapes=(part.shapes,), strict=False
        )
    forget_shapes(program)
    path = folder / f"{part.name}{SUFFIX}"
    torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(description)})


def forget_shapes(program: ExportedProgram) -> None:
    """Replace the shapes of intermediate values with ones.

    They are formulas of the input shapes. Running a program does not need them, and parsing them
    takes more than half of the time that a server needs to open it.
    """
    for node in program.graph_module.graph.nodes:
        if node.op == "call_function" and all(user.op != "output" for user in node.users):
            value = node.meta.get("val")
            node.meta["val"] = tree_map_only(FakeTensor, _without_shape, value)


def _without_shape(value: FakeTensor) -> Tensor:
    with value.fake_mode:
        return torch.empty((1,) * value.dim(), dtype=value.dtype, device=value.device)
