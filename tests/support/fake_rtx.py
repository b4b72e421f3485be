"""The part of TensorRT for RTX that the backend calls, on the CPU: an engine is an ONNX file.

It reads and writes the memory at the addresses that it is given, as the real one does. What it
cannot show is CUDA: streams, graphs, and memory of a GPU.
"""

from __future__ import annotations

import ctypes
from enum import Enum, auto
from typing import Any

import numpy as np
import onnxruntime

__version__ = "1.7.0.1"
LARGEST_BATCH = 8
COMPILED = b"kernels of this GPU"


class DataType(Enum):
    FLOAT = "tensor(float)"
    HALF = "tensor(float16)"
    BF16 = "tensor(bfloat16)"
    INT32 = "tensor(int32)"
    INT64 = "tensor(int64)"
    BOOL = "tensor(bool)"


_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
}


class TensorIOMode(Enum):
    INPUT = auto()
    OUTPUT = auto()


class DynamicShapesKernelSpecializationStrategy(Enum):
    EAGER = auto()


class Logger:
    WARNING = 1

    def __init__(self, severity: int) -> None:
        self.severity = severity


class Runtime:
    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> CudaEngine | None:
        """None if the content is no engine, as the real one answers."""
        try:
            return CudaEngine(onnxruntime.InferenceSession(content))
        except Exception:  # ONNX Runtime's own exceptions share no base class
            return None


class RuntimeCache:
    def __init__(self) -> None:
        self.content = b""

    def serialize(self) -> bytes:
        return self.content

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return True


class RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: Any = None
    cache: RuntimeCache

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class CudaEngine:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.inputs = [tensor.name for tensor in session.get_inputs()]
        self._types = {
            tensor.name: DataType(tensor.type)
            for tensor in (*session.get_inputs(), *session.get_outputs())
        }
        self._names = list(self._types)

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._types[name]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: RuntimeConfig) -> ExecutionContext:
        return ExecutionContext(self, config)


class ExecutionContext:
    compiled = 0
    """Contexts that found no kernels of an earlier one."""
    fails = False

    def __init__(self, engine: CudaEngine, config: RuntimeConfig) -> None:
        self._engine, self._config = engine, config
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        [free] = [t.shape for t in self._engine.session.get_inputs() if t.name == name]
        self._shapes[name] = shape
        return free[0] != "batch" or shape[0] <= LARGEST_BATCH

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Shapes of outputs are known when those of the inputs are."""
        return self._run()[name].shape

    def execute_async_v3(self, stream: int) -> bool:
        cache = self._config.cache
        ExecutionContext.compiled += not cache.content
        cache.content = COMPILED
        for name, values in self._run().items():
            ctypes.memmove(self._addresses[name], values.tobytes(), values.nbytes)
        return not self.fails

    def _run(self) -> dict[str, Any]:
        session = self._engine.session
        feed = {name: self._read(name) for name in self._engine.inputs}
        names = [tensor.name for tensor in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))

    def _read(self, name: str) -> Any:
        dtype = np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)])
        count = int(np.prod(self._shapes[name]))
        content = ctypes.string_at(self._addresses[name], count * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(self._shapes[name])
