"""Open engines of TensorRT for RTX as functions of tensors on the GPU.

The engines were built on another machine, for the GPUs that their description names. Their kernels
are compiled at first use, and kept in files beside the engines if that folder is writable.
"""

from __future__ import annotations

import contextlib
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .errors import BadStage
from .opening import Opening
from .program import compose, read_description
from .rtx_requirements import BINDINGS, require_rtx
from .spec import StageSpec
from .torch_engine import TorchEngine

DESCRIPTION = "engines.json"
_DEVICE = torch.device("cuda:0")


def open_rtx(folder: Path, spec: StageSpec) -> TorchEngine:
    """Return the engine for the files in `folder`, on the first GPU.

    Raises:
        BadStage: this machine lacks what the engines need, or TensorRT for RTX refuses them.
    """
    description = read_engines(folder, spec)
    require_rtx(spec, description)
    parts: dict[str, _Part] = {}

    def open_part(name: str) -> _Part:
        parts[name] = _Part(folder / f"{name}.engine", spec)
        return parts[name]

    opening = Opening(spec.model)
    program = compose(spec, folder / DESCRIPTION, description, open_part)
    opening.done("program")
    engine = TorchEngine(program, spec, _DEVICE)
    for part in parts.values():
        part.keep_kernels()
    return engine


def read_engines(folder: Path, spec: StageSpec) -> dict[str, Any]:
    """Return the description stored beside the engines in `folder`."""
    path = folder / DESCRIPTION
    return read_description(path.read_text() if path.exists() else "", spec, path)


class _Part:
    """One engine as a function that runs in torch's current CUDA stream."""

    def __init__(self, path: Path, spec: StageSpec) -> None:
        trt: Any = import_module(BINDINGS)
        self._model = spec.model
        self._path = path
        # These must live as long as the objects created with them.
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise BadStage(
                f"{spec.model}: TensorRT for RTX {trt.__version__} does not load {path.name}; the "
                "log says why. Export the model again, with the version that serves it"
            )
        self._dtypes = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
            trt.DataType.INT32: torch.int32,
            trt.DataType.INT64: torch.int64,
            trt.DataType.BOOL: torch.bool,
        }
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        reads = [self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names]
        self._inputs = [name for name, read in zip(names, reads, strict=True) if read]
        self._outputs = [name for name, read in zip(names, reads, strict=True) if not read]
        config = self._engine.create_runtime_config()
        # Kernels for a shape are compiled when the shape is first used, while the batches are
        # recorded: later nothing may change, least of all in a recorded graph.
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._kernels = config.create_runtime_cache()
        self._cache = path.with_suffix(".kernels")
        if self._cache.exists():
            self._kernels.deserialize(self._cache.read_bytes())  # ignored if it is from another GPU
        config.set_runtime_cache(self._kernels)
        self._context = self._engine.create_execution_context(config)

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the engine on contiguous tensors, in the order of the export."""
        for name, tensor in zip(self._inputs, tensors, strict=True):
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise BadStage(
                    f"{self._model}: {self._path.name} was not built for {name} "
                    f"{list(tensor.shape)}: 'max_batch_size' and 'max_streams' of the config must "
                    "be those of the export"
                )
            self._context.set_tensor_address(name, tensor.data_ptr())
        results = tuple(self._allocate(name) for name in self._outputs)
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError(f"{self._model}: {self._path.name} did not run; the log says why")
        return results

    def keep_kernels(self) -> None:
        """Write the kernels that were compiled to a file, if the folder can be written."""
        new = self._cache.with_suffix(f".{os.getpid()}")  # each instance writes its own
        with contextlib.suppress(OSError):
            new.write_bytes(memoryview(self._kernels.serialize()))
            new.replace(self._cache)

    def _allocate(self, name: str) -> torch.Tensor:
        shape = tuple(self._context.get_tensor_shape(name))
        dtype = self._dtypes[self._engine.get_tensor_dtype(name)]
        result = torch.empty(shape, dtype=dtype, device=_DEVICE)
        self._context.set_tensor_address(name, result.data_ptr())
        return result
