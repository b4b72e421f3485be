"""Run the ONNX file of one exported stage in ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.formats.onnx_file import ADAPTER_SLOTS, adapter_pools, state_suffixes
from export.formats.packed_adapters import PackedAdapters
from export.spec import ADAPTED, StageSpec

Arrays = list[NDArray[Any]]


class OnnxStage:
    """An ONNX file with the state pools of its streams.

    Args:
        path: the `model.onnx` without adapters.
        adapters: adapters to run the model with, if it takes any.
    """

    def __init__(
        self, path: Path, spec: StageSpec, streams: int, adapters: PackedAdapters | None = None
    ) -> None:
        self.spec = spec
        self._adapters = adapters if spec.adapters else None
        self._session = open_session(
            path if self._adapters is None else path.parent / ADAPTED / path.name
        )
        self.pools = [
            np.zeros((streams, state.rows, state.width), dtype=np.float32) for state in spec.states
        ]

    def step(self, inputs: Sequence[NDArray[Any]], slots: NDArray[np.int64]) -> Arrays:
        """Process one chunk of the streams in `slots` [B]; return the stage's outputs [B, ...]."""
        feed = {
            tensor.name: values for tensor, values in zip(self.spec.inputs, inputs, strict=True)
        }
        for suffix, pool in zip(state_suffixes(self.spec), self.pools, strict=True):
            feed["POOL" + suffix] = pool.reshape(-1, pool.shape[2])
        feed["SLOTS"] = slots
        if self._adapters is not None:
            names = zip(adapter_pools(self.spec), self.spec.adapters, strict=True)
            feed |= {name: self._adapters.pools[role] for name, role in names}
            feed[ADAPTER_SLOTS] = self._adapters.slots[slots]
        results = cast(Arrays, self._session.run(None, feed))
        outputs, updates = results[: len(self.spec.outputs)], results[len(self.spec.outputs) :]
        for pool, update, rows in zip(self.pools, updates[::2], updates[1::2], strict=True):
            pool[slots[:, None], rows] = update
        return outputs


def open_stateless(path: Path, spec: StageSpec) -> Callable[..., Arrays]:
    """Return the stage in `path` as a function `(*inputs) -> outputs`."""
    session = open_session(path)
    names = [tensor.name for tensor in spec.inputs]

    def run(*inputs: NDArray[Any]) -> Arrays:
        return cast(Arrays, session.run(None, dict(zip(names, inputs, strict=True))))

    return run


def open_session(path: Path) -> Any:
    """Return a session of ONNX Runtime on the CPU that logs errors only."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
