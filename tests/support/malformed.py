"""Write requests that no correct client sends: any model by name, any shape, value and flags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

# The generated protobuf classes carry no types.
_pb: Any = service_pb2
_stubs: Any = service_pb2_grpc

_FLOATS = (0.0, 1.0, -1.0, 7.9, 1e4, 3e38, np.nan, np.inf, -np.inf)
_INTS = (0, 1, -1, -5, 7, 70, 71, 1024, 10**6, -(2**31), 2**31 - 1)
_DTYPES = {"FP32": (np.float32, _FLOATS), "INT32": (np.int32, _INTS)}
_DIM_CHANGES = (-1, 1, 1000)
_IDS = (0, 1, 2**63, 2**64 - 1)


class Attacker:
    """Sends malformed requests to the models of a server, and keeps the messages of refusals."""

    def __init__(self, url: str, models: list[str], seed: int) -> None:
        self.messages: list[str] = []
        self._stub: Any = _stubs.GRPCInferenceServiceStub(grpc.insecure_channel(url))
        self._models = [self._stub.ModelMetadata(_pb.ModelMetadataRequest(name=m)) for m in models]
        self._rng = np.random.default_rng(seed)

    def send(self, count: int, at_once: int = 16) -> None:
        """Send `count` requests, some of them at once, and wait for the answers."""
        requests = list(self._requests(count))
        for first in range(0, count, at_once):
            calls = [
                self._stub.ModelInfer.future(request, timeout=30)
                for request in requests[first : first + at_once]
            ]
            self.messages += [call.details() for call in calls if call.exception() is not None]

    def _requests(self, count: int) -> Iterator[Any]:
        for _ in range(count):
            yield self._request(self._models[self._rng.integers(len(self._models))])

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _request(self, metadata: Any) -> Any:
        request = _pb.ModelInferRequest(model_name=metadata.name)
        for tensor in metadata.inputs:
            if not self._chance(0.05):
                self._add(request, tensor)
        if not self._chance(0.1):
            parameters = request.parameters
            if self._chance(0.1):
                parameters["sequence_id"].string_param = "'; drop"
            else:
                stream = _IDS[self._rng.integers(len(_IDS))] if self._chance(0.2) else self._id()
                parameters["sequence_id"].int64_param = stream - (2**64 if stream >= 2**63 else 0)
            parameters["sequence_start"].bool_param = self._chance(0.8)
            parameters["sequence_end"].bool_param = self._chance(0.7)
        return request

    def _id(self) -> int:
        return int(self._rng.integers(2**62, 2**63 - 1))

    def _add(self, request: Any, tensor: Any) -> None:
        """Add an input of the right name; shape and values are often wrong."""
        dtype, pool = _DTYPES[tensor.datatype]
        shape = [1 if dim < 0 else dim for dim in tensor.shape]
        if self._chance(0.15):
            axis = self._rng.integers(len(shape))
            change = _DIM_CHANGES[self._rng.integers(len(_DIM_CHANGES))]
            shape[axis] = max(0, shape[axis] + change)
        if self._chance(0.05):
            shape.append(1)
        values = np.zeros(shape, dtype)
        if values.size:
            wild = self._rng.integers(0, values.size, 1 + values.size // 8)
            values.flat[wild] = self._rng.choice(np.array(pool, dtype), len(wild))
        data = values.tobytes()
        datatype = "INT64" if self._chance(0.05) else tensor.datatype
        entry = request.inputs.add(name=tensor.name, datatype=datatype)
        entry.shape.extend(shape)
        request.raw_input_contents.append(data[:-3] if self._chance(0.05) else data)
