"""Run flat stages and keep the state between chunks, as Triton's implicit state does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from export.formats.onnx_stage import Arrays, open_session
from export.spec import StageSpec
from export.stages.state import FlatStage, Stage
from export.streaming.chain import OpenStage
from export.streaming.spec import StreamingSpec

Array = NDArray[Any]
Run = Callable[[Sequence[Array], Array], Arrays]
"""`(inputs, STATE) -> (*outputs, NEXT_STATE)`, with the batch as the first axis."""

_NUMPY = {"FP32": np.float32, "FP16": np.float16}


class StatefulStage:
    """A flat stage with its streams' states in float32, which represents any half value exactly."""

    def __init__(self, run: Run, spec: StageSpec, streams: int) -> None:
        assert spec.state is not None
        self._run = run
        self.states = np.zeros((streams, spec.state.size), dtype=np.float32)

    def step(self, inputs: Sequence[Array], slots: NDArray[np.int64]) -> Arrays:
        """Process one chunk of the streams in `slots` [B]; return the stage's outputs [B, ...]."""
        *outputs, next_state = self._run(inputs, self.states[slots])
        self.states[slots] = next_state
        return outputs


def open_onnx(path: Path, spec: StageSpec, streams: int) -> StatefulStage:
    """Open a flat ONNX file in ONNX Runtime on the CPU: FP32 or FP16, as it has no BF16 kernels."""
    session = open_session(path)
    assert spec.state is not None
    dtype = _NUMPY[spec.state.dtype]

    def run(inputs: Sequence[Array], state: Array) -> Arrays:
        feed = {tensor.name: values for tensor, values in zip(spec.inputs, inputs, strict=True)}
        feed["STATE"] = state.astype(dtype)
        return cast(Arrays, session.run(None, feed))

    return StatefulStage(run, spec, streams)


def open_torch(stage: Stage, spec: StageSpec, streams: int) -> StatefulStage:
    """Open the stage in torch, where every tensor is rounded to its type in the graph."""
    flat = FlatStage(stage).eval()
    half = stage.layout.dtype != "FP32"
    dtype = {"FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16}[
        stage.layout.dtype
    ]

    @torch.inference_mode()
    def run(inputs: Sequence[Array], state: Array) -> Arrays:
        flat_state = torch.from_numpy(state).to(dtype)
        *outputs, next_state = flat(*map(torch.from_numpy, inputs), flat_state)
        next_state = next_state.float() if half else next_state
        return [tensor.numpy() for tensor in (*outputs, next_state)]

    return StatefulStage(run, spec, streams)


def opener_of(stages: Sequence[Stage], spec: StreamingSpec) -> OpenStage:
    """Return a function that opens each of `stages` in torch; see `open_torch`."""
    by_name = {stage.name: module for stage, module in zip(spec.stages, stages, strict=True)}

    def open_stage(path: Path, stage: StageSpec, streams: int) -> StatefulStage:
        return open_torch(by_name[stage.name], stage, streams)

    return open_stage
