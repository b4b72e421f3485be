"""Refuse ONNX graphs that TensorRT's parser accepts but this project does not.

The parser itself refuses what TensorRT cannot build, with the node and the reason (see
`engine.py`). But it accepts a loop, a sum in half precision, a state with another name and a shape
that depends on values, which would be slow or wrong, or fail in Triton.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from export.errors import GraphRefused
from export.spec import StageSpec, TensorSpec
from export.tensorrt.versions import MAX_OPSET

_TYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
}
"""Triton's names of the types of inputs, outputs and states."""

_FLOAT32_ONLY = frozenset(
    {
        *("LayerNormalization", "BatchNormalization", "Softmax", "LogSoftmax", "CumSum"),
        *("Exp", "Log", "Sqrt", "Pow", "ReduceSum", "ReduceMean"),
    }
)
"""Operators that sum many terms or exponentials, which overflow or lose precision in half; TensorRT
supports cumulative sums in floating point only."""

_WHY_NOT = {
    "Loop": "a stage must be straight-line code",
    "If": "a stage must be straight-line code",
    "Scan": "a stage must be straight-line code",
    "ScatterND": "its index depends on the batch; the state is written with Where",
    "ReduceLogSumExp": "TensorRT sums the bare exponentials, which overflow; subtract the maximum",
    "STFT": "log-mel is a product with a constant basis",
}


_DEPENDS_ON_VALUES = re.compile(r"\?|\bunk__|\bu\d")
"""Names of sizes that no input's shape determines; the second form is from onnx, the third from
torch."""


def check_graph(path: Path, spec: StageSpec) -> None:
    """Check that the ONNX file of a stage matches `spec` and respects the limits of this module.

    Raises:
        GraphRefused: the message names the first node or tensor that is refused, and the reason.
    """
    model = onnx.load(path)
    _check_opset(model, spec.name)
    _check_boundary(model, spec)
    for node in model.graph.node:
        _check_operator(node, spec.name)
    inferred = _inferred(model, spec.name)
    tensors = {value.name: value for value in _values(inferred)}
    constants = {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    types = constants | {name: value.type.tensor_type.elem_type for name, value in tensors.items()}
    for node in inferred.graph.node:
        _check_types(node, types, spec.name)
        _check_shapes(node, tensors, spec)


def _inferred(model: ModelProto, stage: str) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise GraphRefused(f"{stage}: the graph is not consistent: {error}") from error


def _values(model: ModelProto) -> Iterator[ValueInfoProto]:
    yield from model.graph.input
    yield from model.graph.value_info
    yield from model.graph.output


def _check_opset(model: ModelProto, stage: str) -> None:
    """Refuse newer opsets, whose operators the parser would read as those of older ones."""
    [opset] = [opset.version for opset in model.opset_import if not opset.domain]
    if opset > MAX_OPSET:
        raise GraphRefused(f"{stage}: expected an opset up to {MAX_OPSET}, got {opset}")


def _check_boundary(model: ModelProto, spec: StageSpec) -> None:
    """Check that inputs and outputs, including the state, are those of the spec."""
    wanted_inputs, wanted_outputs = spec.inputs, spec.outputs
    if spec.state is not None:
        size, dtype = (spec.state.size,), spec.state.dtype
        wanted_inputs = (*wanted_inputs, TensorSpec("STATE", dtype, size))
        wanted_outputs = (*wanted_outputs, TensorSpec("NEXT_STATE", dtype, size))
    for kind, wanted, values in (
        ("inputs", wanted_inputs, model.graph.input),
        ("outputs", wanted_outputs, model.graph.output),
    ):
        got = [_tensor_spec(value) for value in values]
        if got != list(wanted):
            raise GraphRefused(
                f"{spec.name}: expected the {kind} {_listed(wanted)}, got {_listed(got)}"
            )


def _listed(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.dims)}" for tensor in tensors)


def _tensor_spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value or -1 for dim in tensor.shape.dim[1:])
    return TensorSpec(value.name, _type_name(tensor.elem_type), dims)


def _type_name(elem_type: int) -> str:
    return _TYPE_NAMES.get(elem_type, TensorProto.DataType.Name(elem_type))


def _check_operator(node: NodeProto, stage: str) -> None:
    if node.op_type in _WHY_NOT:
        why = _WHY_NOT[node.op_type]
        raise GraphRefused(f"{stage}: node {node.name} is a {node.op_type}: {why}")


def _check_types(node: NodeProto, types: dict[str, int], stage: str) -> None:
    """Check that a node does not compute in double, nor in half if that loses too much."""
    got = [types.get(name) for name in (*node.input[:1], *node.output) if name]
    if TensorProto.DOUBLE in got:
        raise GraphRefused(
            f"{stage}: node {node.name} ({node.op_type}) works in DOUBLE, which TensorRT rounds to "
            "float32 without a word; convert it in the stage"
        )
    if node.op_type in _FLOAT32_ONLY and got[0] != TensorProto.FLOAT:
        raise GraphRefused(
            f"{stage}: node {node.name} ({node.op_type}) works in {_type_name(got[0] or 0)}, "
            "allowed is FP32"
        )


def _check_shapes(node: NodeProto, tensors: dict[str, ValueInfoProto], spec: StageSpec) -> None:
    """Check that only the batch varies, and for utterances the sizes that depend on length."""
    whole = any(-1 in tensor.dims for tensor in spec.inputs)
    for name in node.output:
        tensor = tensors[name].type.tensor_type
        free = [dim.dim_param or "?" for dim in tensor.shape.dim if not dim.HasField("dim_value")]
        good = not any(map(_DEPENDS_ON_VALUES.search, free)) if whole else len(free) <= 1
        if not good or not tensor.HasField("shape"):
            raise GraphRefused(
                f"{spec.name}: node {node.name} ({node.op_type}) gives {name} with the free axes "
                f"{free or 'of an unknown rank'}; only the batch"
                f"{' and the length' * whole} may vary"
            )
