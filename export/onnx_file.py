"""Stages to ONNX files, in the pooled form that the bundled backend serves."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor
from torch.export import Dim

from export.spec import StageSpec, TensorSpec
from export.stages.state import PooledStages, Stage

OPSET = 20
TORCH_DTYPES = {"FP32": torch.float32, "INT32": torch.int32}


def export_onnx(stages: Sequence[Stage], spec: StageSpec, path: Path) -> None:
    """Write ``stages``, run in a row, to ``path``; batch and pool size are the only free axes.

    Graph inputs: the stage's own, ``POOL`` float32 [slots * rows, width], ``SLOTS`` int64 [B].
    Graph outputs: the stage's own, ``UPDATE`` float32 [B, U, width], ``UPDATE_ROWS`` int64 [B, U].
    Several stages have a pool and an update each, named ``POOL_ENCODER`` and so on.
    """
    batch = Dim("batch")
    tensors = [example(tensor) for tensor in spec.inputs]
    pools = [torch.zeros(3 * stage.layout.rows, stage.layout.width) for stage in stages]
    free_rows = [{0: Dim(f"pool_rows_{index}")} for index in range(len(pools))]
    suffixes = state_suffixes(spec)
    updates = [name + suffix for suffix in suffixes for name in ("UPDATE", "UPDATE_ROWS")]
    slots = torch.tensor([0, 2])
    shapes = [{0: batch} for _ in tensors]
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            PooledStages(stages).eval(),
            (*tensors, *pools, slots),
            dynamo=True,
            opset_version=OPSET,
            input_names=[
                *(tensor.name for tensor in spec.inputs),
                *("POOL" + suffix for suffix in suffixes),
                "SLOTS",
            ],
            output_names=[*(tensor.name for tensor in spec.outputs), *updates],
            dynamic_shapes=((*shapes, *free_rows, {0: batch}),),
            verbose=False,
        )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path)


def state_suffixes(spec: StageSpec) -> list[str]:
    """What the names of a graph's state tensors end with, one for each of its states."""
    return [f"_{member.name.upper()}" for member in spec.members] or [""]


def quantize_encoder(path: Path) -> None:
    """Replace the matrix products of an ONNX file by int8 ones, activations scaled as they come.

    The scale of an activation is taken over the whole batch: an int8 encoder's rounding depends,
    within its measured token difference, on what else is in the batch.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    # Shapes noted by the exporter are out of date once Gemm nodes have become MatMul and Add.
    del model.graph.value_info[:]
    with quiet():
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
    """Products by a constant stack of matrices, which int8 scales per channel do not fit."""
    stacks = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 2}
    return [node.name for node in model.graph.node if stacks.intersection(node.input)]


def example(tensor: TensorSpec) -> Tensor:
    """A batch of two: any value will do, the graph must not depend on it."""
    return torch.ones(2, *tensor.dims).to(TORCH_DTYPES[tensor.dtype])


class quiet:
    """The exporter and the quantizer report their inner steps; a user has no use for them."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *exception: object) -> None:
        logging.disable(self._disabled)
        self._warnings.__exit__(None, None, None)
