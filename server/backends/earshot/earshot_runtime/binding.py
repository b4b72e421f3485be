"""Bind numpy arrays to an ONNX Runtime graph by address, so that a run copies nothing."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnxruntime as ort


def bind_input(binding: ort.IOBinding, name: str, array: npt.NDArray[Any]) -> None:
    """Bind `array` as an input; it must be contiguous and outlive the binding."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def bind_output(binding: ort.IOBinding, name: str, array: npt.NDArray[Any]) -> None:
    """Bind `array` as an output; it must be contiguous and outlive the binding."""
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
