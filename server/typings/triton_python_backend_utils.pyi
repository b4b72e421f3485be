"""The part of Triton's Python backend API that the bundled backends use.

The module exists only inside Triton's stub process. Source: triton-inference-server/python_backend,
README.md and src/pb_stub.cc.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy.typing as npt

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START: int
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END: int

class Tensor:
    def __init__(self, name: str, array: npt.NDArray[Any]) -> None: ...
    def as_numpy(self) -> npt.NDArray[Any]: ...

class TritonError:
    UNAVAILABLE: int
    INVALID_ARG: int
    INTERNAL: int
    def __init__(self, message: str, code: int = ...) -> None: ...

class InferenceRequest:
    def flags(self) -> int: ...
    def correlation_id(self) -> int: ...
    def request_id(self) -> str: ...
    # A JSON object, or "" without parameters.
    def parameters(self) -> str: ...

class InferenceResponse:
    def __init__(
        self, output_tensors: Sequence[Tensor] = ..., error: TritonError | None = None
    ) -> None: ...

class Logger:
    @staticmethod
    def log_error(message: str) -> None: ...

class Metric:
    def set(self, value: float) -> None: ...
    def increment(self, value: float) -> None: ...

class MetricFamily:
    class _Kind(Enum):
        COUNTER = ...
        GAUGE = ...

    COUNTER = _Kind.COUNTER
    GAUGE = _Kind.GAUGE
    def __init__(self, name: str, description: str, kind: _Kind) -> None: ...
    def Metric(self, labels: Mapping[str, str]) -> Metric: ...

# None for a name that the model config has not: Triton refuses requests without one that it has.
def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor: ...
