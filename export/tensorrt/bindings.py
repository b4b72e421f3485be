"""Import the installed TensorRT: the full one, or TensorRT for RTX.

TensorRT comes with NVIDIA's containers, and builds for the GPU of the machine. TensorRT for RTX
comes from the package index (extra `tensorrt-rtx`), and builds for named GPUs, even on a machine
without one. Parser, network, builder and runtime have the same Python API in both.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

IS_RTX = find_spec("tensorrt") is None

if TYPE_CHECKING or not IS_RTX:
    import tensorrt as trt  # pyright: ignore[reportMissingModuleSource]
else:
    import tensorrt_rtx_bindings as trt

__all__ = ["IS_RTX", "trt"]
