"""Malformed requests to any model of a server, from a seed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

# The generated protobuf classes carry no types.
_pb: Any = service_pb2

_EXTREME_INTS = (-5, -1, 0, 1, 2**31 - 1, -(2**31))
_EXTREME_FLOATS = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0)
_INTEGERS = {"INT32": "<i4", "INT64": "<i8"}
_BYTES_MAX = 4096

Mutation = Callable[[Any, np.random.Generator], None]


def malformed_request(metadata: Any, random: np.random.Generator) -> Any:
    """Return a request to the model of this ModelMetadata, with one to three things wrong."""
    request = _pb.ModelInferRequest(model_name=metadata.name)
    for tensor in metadata.inputs:
        shape = [1, *(max(1, size) for size in list(tensor.shape)[1:])]
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        request.raw_input_contents.append(_extreme(tensor.datatype, shape, random))
    # Most begin and end their stream, so that they take no slot from the live ones.
    request.parameters["sequence_id"].int64_param = int(random.integers(1, 2**62))
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = True
    for _ in range(random.integers(0, 3)):
        _MUTATIONS[random.integers(len(_MUTATIONS))](request, random)
    return request


def _extreme(datatype: str, shape: list[int], random: np.random.Generator) -> bytes:
    count = int(np.prod(shape))
    if datatype in _INTEGERS:
        return random.choice(_EXTREME_INTS, count).astype(_INTEGERS[datatype]).tobytes()
    if datatype == "BYTES":
        return struct.pack("<I", 2**31 - 1) + random.bytes(8)
    return random.choice(_EXTREME_FLOATS, count).astype("<f4").tobytes()


def _some(request: Any, random: np.random.Generator) -> int:
    return int(random.integers(max(1, len(request.inputs))))


def _wrong_shape(request: Any, random: np.random.Generator) -> None:
    if request.inputs:
        shape = random.integers(-2, 70, random.integers(0, 4)).tolist()
        request.inputs[_some(request, random)].shape[:] = shape


def _wrong_type(request: Any, random: np.random.Generator) -> None:
    if request.inputs:
        kind = random.choice(["FP16", "FP64", "INT8", "BOOL", "BYTES", "", "NOTHING"])
        request.inputs[_some(request, random)].datatype = str(kind)


def _wrong_length(request: Any, random: np.random.Generator) -> None:
    if request.raw_input_contents:
        at = int(random.integers(len(request.raw_input_contents)))
        request.raw_input_contents[at] = random.bytes(int(random.integers(_BYTES_MAX)))


def _wrong_name(request: Any, random: np.random.Generator) -> None:
    if request.inputs:
        request.inputs[_some(request, random)].name = "x" * int(random.integers(200))


def _missing_input(request: Any, random: np.random.Generator) -> None:
    if request.inputs:
        at = _some(request, random)
        del request.inputs[at]
        if random.random() < 0.5 and at < len(request.raw_input_contents):
            del request.raw_input_contents[at]


def _wrong_sequence(request: Any, random: np.random.Generator) -> None:
    parameters = request.parameters
    which = random.integers(5)
    if which == 0:
        parameters.pop("sequence_id", None)
    elif which == 1:
        parameters.pop("sequence_start", None)
    elif which == 2:
        parameters["sequence_id"].string_param = "x" * int(random.integers(1, 300))
    elif which == 3:
        parameters["sequence_id"].bool_param = True
    else:
        parameters["sequence_start"].string_param = "yes"


def _wrong_parameter(request: Any, random: np.random.Generator) -> None:
    name = str(random.choice(["timeout", "priority", "binary_data", "no such parameter"]))
    request.parameters[name].int64_param = int(random.choice(_EXTREME_INTS))


def _wrong_output(request: Any, random: np.random.Generator) -> None:
    request.outputs.add(name=str(random.choice(["", "NOTHING", "POOL", "TEXT"])))


_MUTATIONS: tuple[Mutation, ...] = (
    _wrong_shape,
    _wrong_type,
    _wrong_length,
    _wrong_name,
    _missing_input,
    _wrong_sequence,
    _wrong_parameter,
    _wrong_output,
)
