"""Recordings on a CPU that work like CUDA graphs, for tests without a GPU.

Like a CUDA graph, a recording calls its function once and leaves garbage where its results will
be, and everything else as it was. Repeating it runs the same operations on the same memory,
whatever the Python around them would do now. What a graph cannot hold is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from server.backends.earshot.earshot_runtime.recorder import Recorded, Recorder

GARBAGE = {torch.bool: True, torch.int32: -(2**30), torch.int64: -(2**40)}
"""Below zero, so that an index made of it is out of bounds; NaN for floats."""
_NEED_THE_DATA = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class CpuRecorder(Recorder):
    """Records the operations of torch and repeats them."""

    def capture(self, function: Recorded) -> Recorded:
        with _Capture() as capture:
            function()
        return capture.replay

    def stream(self) -> AbstractContextManager[object]:
        return nullcontext()

    def wait(self) -> None:
        pass


class OnOneDevice(TorchDispatchMode):
    """Fails if an operation gets a tensor of another device, as a copy would in a CUDA graph."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = torch.device(device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        others = {str(t.device) for t in _tensors((args, kwargs, made)) if t.device != self._device}
        if others:
            raise RuntimeError(f"{func} on {self._device} has tensors on {', '.join(others)}")
        return made


class _Capture(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._steps: list[Callable[[], None]] = []
        self._made: list[Tensor] = []

    def replay(self) -> None:
        for step in self._steps:
            step()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for tensor in self._made:
            tensor.fill_(GARBAGE.get(tensor.dtype, float("nan")))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(tag in func.tags for tag in _NEED_THE_DATA):
            raise RuntimeError(f"{func} needs the data: it cannot be in a CUDA graph")
        if _writes(func):
            self._steps.append(lambda: func(*args, **kwargs))
            return args[0]
        made = func(*args, **kwargs)
        tensors = _tensors(made)
        if _memory_of(tensors) & _memory_of(_tensors((args, kwargs))):
            return made  # a view: it changes with what it looks at

        def again() -> None:
            for tensor, value in zip(tensors, _tensors(func(*args, **kwargs)), strict=True):
                tensor.copy_(value)

        self._steps.append(again)
        self._made += tensors
        return made


def _writes(func: Any) -> bool:
    """Return True if the operation changes one of its arguments."""
    return any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _memory_of(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}
