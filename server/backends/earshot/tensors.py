"""Passes arrays to and from Triton's Python backend by DLPack.

The usual way, `as_numpy()` and `Tensor(name, array)`, is compiled against numpy 1's description
of a dtype: under numpy 2 it reads every item size as 0, so that inputs repeat their first element
and outputs are empty, without an error. DLPack carries sizes itself, and copies nothing.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
# The capsule keeps the address of its name: this object must live as long as the module.
_CONSUMED = b"used_dltensor"


def to_array(tensor: Any) -> npt.NDArray[Any]:
    """A view of an input tensor; valid while its request is."""
    return np.from_dlpack(tensor)


def to_tensor(name: str, array: npt.NDArray[Any]) -> Any:
    """An output tensor that refers to `array`, which must be contiguous.

    Triton copies it when `execute` returns.
    """
    capsule = array.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # Triton marks the capsule with a name of its own; numpy expects the name that the standard
    # gives to a capsule that was consumed, and complains on stderr about any other.
    _set_capsule_name(capsule, _CONSUMED)
    return tensor
