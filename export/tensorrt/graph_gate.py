"""Check an ONNX file for parts that TensorRT refuses or handles badly, before a build.

A build takes minutes on a GPU machine and its errors name generated layers; this check takes a
second on any machine and names the node. The table is ONNX-TensorRT's operator matrix
(docs/operators.md of the parser for TensorRT 10.15; 11 only adds to it), reduced to the operators
that a stage may use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from export.errors import GraphRefused
from export.spec import StageSpec, TensorSpec

MAX_OPSET = 24
"""The highest opset of that parser; TensorRT 11.4 supports at least this one."""

_TYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.FLOAT8E4M3FN: "FP8",
}
_BOOL = frozenset({"BOOL"})
_FLOAT32 = frozenset({"FP32"})
_FLOAT = frozenset({"FP32", "FP16", "BF16"})
_NUMBER = _FLOAT | {"INT32", "INT64"}
_ANY = _NUMBER | _BOOL
_SUPPORTED: dict[str, frozenset[str]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Abs", "Neg"), _NUMBER),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), _NUMBER),
    **dict.fromkeys(("And", "Or", "Not", "Xor"), _BOOL),
    **dict.fromkeys(("MatMul", "Gemm", "Conv"), _FLOAT),
    **dict.fromkeys(("Sigmoid", "Tanh", "Relu", "Clip"), _NUMBER),
    # Sums of many terms and exponentials: half precision overflows or loses them.
    **dict.fromkeys(("LayerNormalization", "BatchNormalization", "Softmax"), _FLOAT32),
    **dict.fromkeys(("Exp", "Log", "Sqrt", "Pow", "CumSum", "Floor"), _FLOAT32),
    **dict.fromkeys(("ReduceSum", "ReduceMean"), _FLOAT32),
    **dict.fromkeys(("ArgMax", "ReduceMax", "TopK", "Range"), _NUMBER),
    **dict.fromkeys(("Cast", "Identity", "Constant", "ConstantOfShape", "Shape"), _ANY),
    **dict.fromkeys(("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"), _ANY),
    **dict.fromkeys(("Concat", "Split", "Slice", "Expand", "Tile", "Where"), _ANY),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND"), _ANY),
    "ScatterElements": _NUMBER,
    "Pad": _NUMBER,
    "QuantizeLinear": _FLOAT,
    "DequantizeLinear": frozenset({"FP8"}),
}
_WHY_NOT = {
    "Loop": "a stage must be straight-line code",
    "If": "a stage must be straight-line code",
    "Scan": "a stage must be straight-line code",
    "NonZero": "the shape of its result depends on values",
    "Compress": "the shape of its result depends on values",
    "ScatterND": "its index depends on the batch; the state is written with Where",
    "ReduceLogSumExp": "TensorRT sums the bare exponentials, which overflow; subtract the maximum",
    "STFT": "log-mel is a product with a constant basis",
    "DFT": "log-mel is a product with a constant basis",
}


_DEPENDS_ON_VALUES = re.compile(r"\?|\bunk__|\bu\d")
"""Names of sizes that no input's shape determines: the second is onnx's, the third torch's."""


def check_graph(path: Path, spec: StageSpec) -> None:
    """Check that TensorRT supports the ONNX file of a stage, and that the file fits `spec`.

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
    for opset in model.opset_import:
        if opset.domain or opset.version > MAX_OPSET:
            raise GraphRefused(
                f"{stage}: expected standard operators up to opset {MAX_OPSET}, got opset "
                f"{opset.version} of '{opset.domain or 'ai.onnx'}'"
            )
    if model.functions:
        raise GraphRefused(f"{stage}: the graph calls function {model.functions[0].name}")


def _check_boundary(model: ModelProto, spec: StageSpec) -> None:
    """Check that inputs and outputs, with the state, are those of the spec."""
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
    if node.domain or node.op_type not in _SUPPORTED:
        why = _WHY_NOT.get(node.op_type, "not among the operators that stages may use")
        raise GraphRefused(f"{stage}: node {node.name} is a {node.op_type}: {why}")
    if any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute):
        raise GraphRefused(f"{stage}: node {node.name} has a graph of its own")


def _check_types(node: NodeProto, types: dict[str, int], stage: str) -> None:
    """Check the type that a node computes in, and that TensorRT supports all its types."""
    for name in (*node.input, *node.output):
        kind = types.get(name, TensorProto.UNDEFINED)
        if name and kind not in _TYPE_NAMES:
            raise GraphRefused(
                f"{stage}: node {node.name} ({node.op_type}) has {name} of type "
                f"{_type_name(kind)}, which TensorRT does not support inside a network"
            )
    # The condition of a Where is its first input; what it selects comes second.
    worked_on = node.input[1 if node.op_type == "Where" else 0] if node.input else node.output[0]
    got, allowed = _type_name(types[worked_on]), _SUPPORTED[node.op_type]
    if got not in allowed:
        raise GraphRefused(
            f"{stage}: node {node.name} ({node.op_type}) works in {got}, allowed is "
            f"{', '.join(sorted(allowed))}"
        )


def _check_shapes(node: NodeProto, tensors: dict[str, ValueInfoProto], spec: StageSpec) -> None:
    """Check that only the batch varies, for an utterance also sizes that follow from its length."""
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
