"""Write stages to ONNX files: pooled for the bundled backend, flat for Triton's implicit state."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from export.spec import StageSpec, TensorSpec
from export.stages.layout import AdapterLayout
from export.stages.state import FlatStage, PooledStages, Stage

OPSET = 20
TORCH_DTYPES = {
    "FP32": torch.float32,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
}
ADAPTER_SLOTS = "ADAPTER_SLOTS"
_BATCH = Dim("batch")


def export_onnx(
    stages: Sequence[Stage], spec: StageSpec, path: Path, adapter_rank: int = 0
) -> None:
    """Write `stages`, run one after the other, to `path`; only batch and pool sizes are free axes.

    Graph inputs: the stage's own, `POOL` float32 [slots * rows, width], `SLOTS` int64 [B]. Graph
    outputs: the stage's own, `UPDATE` float32 [B, U, width], `UPDATE_ROWS` int64 [B, U]. With
    several stages, each has a pool and an update, named `POOL_ENCODER` and so on.

    With adapters of rank `adapter_rank`, the graph also takes `ADAPTER_POOL` float32 [adapters *
    rows, width] for each stage that adapters change, and `ADAPTER_SLOTS` int64 [B].
    """
    suffixes = state_suffixes(spec)
    states: dict[str, tuple[Tensor, Any]] = {
        f"POOL{suffix}": (
            torch.zeros(3 * stage.layout.rows, stage.layout.width),
            Dim(f"pool_rows{suffix.lower()}"),
        )
        for stage, suffix in zip(stages, suffixes, strict=True)
    }
    states["SLOTS"] = (torch.tensor([0, 2]), _BATCH)
    if adapter_rank:
        states |= {
            name: (torch.zeros(3 * layout.rows, layout.width), Dim(f"rows_of_{name.lower()}"))
            for name, layout in adapter_pools(spec).items()
        }
        states[ADAPTER_SLOTS] = (torch.tensor([0, 2]), _BATCH)
    updates = [name + suffix for suffix in suffixes for name in ("UPDATE", "UPDATE_ROWS")]
    _export(PooledStages(stages, adapter_rank), spec, states, updates, OPSET, path)


def state_suffixes(spec: StageSpec) -> list[str]:
    """Return the name suffixes of a graph's state tensors, one for each of its states."""
    return [f"_{member.role.upper()}" for member in spec.members] or [""]


def adapter_pools(spec: StageSpec) -> dict[str, AdapterLayout]:
    """Return the pools of adapters of a graph, by the names of its inputs."""
    return {
        f"ADAPTER_POOL_{role.upper()}" if spec.members else "ADAPTER_POOL": layout
        for role, layout in spec.adapters.items()
    }


def export_flat_onnx(stage: Stage, spec: StageSpec, path: Path, opset: int) -> None:
    """Write `stage` to `path` with its state as one tensor; the batch is the only free axis.

    Graph inputs: the stage's own, `STATE` [B, rows * width]. Graph outputs: the stage's own,
    `NEXT_STATE`, like `STATE`. The type of both is that of the layout.
    """
    state = torch.zeros(2, stage.layout.size, dtype=TORCH_DTYPES[stage.layout.dtype])
    _export(FlatStage(stage), spec, {"STATE": (state, _BATCH)}, ["NEXT_STATE"], opset, path)


def _export(
    module: nn.Module,
    spec: StageSpec,
    states: Mapping[str, tuple[Tensor, Any]],
    updates: list[str],
    opset: int,
    path: Path,
) -> None:
    """Write `module`; `states` maps each state input to an example and its free first axis."""
    tensors = [example(tensor) for tensor in spec.inputs]
    write_onnx(
        module.eval(),
        (*tensors, *(value for value, _ in states.values())),
        ((*({0: _BATCH} for _ in tensors), *({0: axis} for _, axis in states.values())),),
        path,
        opset,
        input_names=[*(tensor.name for tensor in spec.inputs), *states],
        output_names=[*(tensor.name for tensor in spec.outputs), *updates],
    )


def write_onnx(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    shapes: tuple[Any, ...],
    path: Path,
    opset: int,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str] | None = None,
) -> None:
    """Write a module to `path`; `shapes` are the free axes of the parameters of `forward`.

    The axes of a parameter like `*parameters` are a tuple.
    """
    with torch.no_grad(), silenced(), uncollected():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            opset_version=opset,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path)


def quantize_encoder(path: Path) -> None:
    """Replace the matrix products of an ONNX file by int8 ones, with dynamic activation scales.

    The scale of an activation is that of the whole batch, so the rounding of an int8 encoder
    depends, within its measured token difference, on the other streams in the batch.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    # Shapes recorded by the exporter are wrong after Gemm nodes are replaced by MatMul and Add.
    del model.graph.value_info[:]
    with silenced():
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_products_without_matrix(model),
            extra_options={"MatMulConstBOnly": True},
        )


def _products_without_matrix(model: onnx.ModelProto) -> list[str]:
    """Return the products with a constant stack of matrices, which have no scale per channel."""
    stacks = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 2}
    return [node.name for node in model.graph.node if stacks.intersection(node.input)]


def example(tensor: TensorSpec) -> Tensor:
    """Return a batch of two; the graph does not depend on its values."""
    return torch.ones(2, *tensor.dims).to(TORCH_DTYPES[tensor.dtype])


@contextmanager
def uncollected() -> Generator[None]:
    """Disable the garbage collector in the block, for a trace of `torch.export`.

    A trace creates hundreds of thousands of objects, most of which live until it ends. Collections
    would scan all of them repeatedly, which takes a tenth of the time or more.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class silenced:
    """Context without the warnings and logs of the exporter and the quantizer."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *exception: object) -> None:
        logging.disable(self._disabled)
        self._warnings.__exit__(None, None, None)
