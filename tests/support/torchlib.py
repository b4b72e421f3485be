"""Export many graphs in one process without reading the library of ONNX functions for each."""

from __future__ import annotations

import functools

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry


def read_once(patch: pytest.MonkeyPatch) -> None:
    """Keep the registry of `torch.onnx.export`, which it makes anew for every graph.

    For that onnxscript parses the source of its hundreds of functions, in more than half a second.
    """
    made_once = functools.cache(ONNXRegistry.from_torchlib)
    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(made_once))
