"""Read the tensors of a repository's configs and ONNX files, in one form to compare."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.spec import TensorSpec

ONNX_DTYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
}

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and dims by name."""

# The generated protobuf classes carry no types.
_pb: Any = model_config_pb2


def read_config(path: Path) -> Any:
    return text_format.Parse(path.read_text(), _pb.ModelConfig())


def config_tensors(entries: Iterable[Any]) -> Tensors:
    names = {
        value: name.removeprefix("TYPE_").replace("STRING", "BYTES")
        for name, value in _pb.DataType.items()
    }
    return {entry.name: (names[entry.data_type], tuple(entry.dims)) for entry in entries}


def spec_tensors(tensors: Iterable[TensorSpec]) -> Tensors:
    return {tensor.name: (tensor.dtype, tensor.dims) for tensor in tensors}


def onnx_tensors(values: Iterable[onnx.ValueInfoProto]) -> Tensors:
    return {
        value.name: (
            ONNX_DTYPES[value.type.tensor_type.elem_type],
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]),
        )
        for value in values
    }


def check_that_every_step_is_fed(repository: Path, ensemble_name: str) -> None:
    """Check that each step of the ensemble gets all its inputs with their dtypes and dims."""
    ensemble = read_config(repository / ensemble_name / "config.pbtxt")
    known = config_tensors(ensemble.input)
    for step in ensemble.ensemble_scheduling.step:
        member = read_config(repository / step.model_name / "config.pbtxt")
        inputs, outputs = config_tensors(member.input), config_tensors(member.output)
        assert set(step.input_map) == set(inputs), step.model_name
        assert set(step.output_map) <= set(outputs), step.model_name
        for tensor, source in step.input_map.items():
            assert known[source] == inputs[tensor], (step.model_name, tensor)
        known |= {step.output_map[tensor]: outputs[tensor] for tensor in step.output_map}
    for tensor, entry in config_tensors(ensemble.output).items():
        assert known[tensor] == entry
