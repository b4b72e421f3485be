"""Hold the rows that an instance and its engine's process exchange in shared memory."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from .spec import StageSpec, TensorSpec

_ALIGNMENT_BYTES = 64
_SLOTS = TensorSpec("SLOTS", np.dtype(np.int64), ())
_STARTS = TensorSpec("STARTS", np.dtype(np.bool_), ())
_ADAPTERS = TensorSpec("ADAPTER_SLOTS", np.dtype(np.int64), ())


class EngineMemory:
    """Arrays [max_batch, *dims] for the largest batch of one instance."""

    def __init__(self, spec: StageSpec, file: int) -> None:
        """Map `file`, a descriptor that may be closed afterwards; enlarge it if it is empty."""
        tensors = (*spec.inputs, *spec.outputs, _SLOTS, _STARTS, _ADAPTERS)
        sizes = [_bytes(tensor, spec.max_batch) for tensor in tensors]
        if os.fstat(file).st_size == 0:
            os.ftruncate(file, sum(sizes))
        memory = mmap.mmap(file, sum(sizes))
        arrays: dict[str, npt.NDArray[Any]] = {}
        offset = 0
        for tensor, size in zip(tensors, sizes, strict=True):
            arrays[tensor.name] = np.ndarray(
                (spec.max_batch, *tensor.dims), tensor.dtype, memory, offset
            )
            offset += size
        self.inputs = {tensor.name: arrays[tensor.name] for tensor in spec.inputs}
        self.outputs = {tensor.name: arrays[tensor.name] for tensor in spec.outputs}
        self.slots: npt.NDArray[np.int64] = arrays[_SLOTS.name]
        self.starts: npt.NDArray[np.bool_] = arrays[_STARTS.name]
        self.adapters: npt.NDArray[np.int64] = arrays[_ADAPTERS.name]


def _bytes(tensor: TensorSpec, rows: int) -> int:
    size = rows * int(np.prod(tensor.dims, dtype=np.int64)) * tensor.dtype.itemsize
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
