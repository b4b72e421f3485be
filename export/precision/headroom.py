"""Rescale the layers of a checkpoint whose outputs would come near the end of float16.

The residual stream of the stages is float32, but what the layers add to it is half. Some
checkpoints reach tens of thousands there. The largest outputs are measured in float32 on real
speech; layers that come near the limit are replaced by `RescaledLinear`, all others stay as they
are. `numerics.py` then checks the result on minutes of speech, as for any other checkpoint.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.spec import StageSpec
from export.stages.half import Stages
from export.stages.rescaled import RescaledLinear, rescalable
from export.streaming.chain import Chain
from export.streaming.spec import StreamingSpec
from export.tensorrt.flat import StatefulStage, open_torch
from export.tensorrt.numerics import HEADROOM

_LIMIT = torch.finfo(torch.float16).max
NEAR = _LIMIT / HEADROOM / 4
"""Outputs and weights above are rescaled: a fourth of what is allowed, for louder speech."""
_TARGET = _LIMIT / 64


def headroom_factors(
    stages: Stages, spec: StreamingSpec, utterances: Sequence[NDArray[np.float32]]
) -> dict[str, float]:
    """Return the factors of the layers whose outputs are too large, by module.

    Args:
        stages: in float32, without a loop, whose steps a hook cannot look into.
        utterances: real speech, samples [N] at 16 kHz.
    """
    largest = _largest_outputs(stages, spec, utterances)
    return {name: _factor(value) for name, value in largest.items() if value > NEAR}


def rescale(stages: Stages, spec: StreamingSpec, factors: Mapping[str, float]) -> Stages:
    """Return float32 stages in which the layers that `factors` names are rescaled."""
    if not factors:
        return stages
    rescaled = copy.deepcopy(stages)
    for stage_spec, stage in zip(spec.stages, rescaled, strict=True):
        for name, linear in rescalable(stage).items():
            factor = factors.get(f"{stage_spec.role}.{name}")
            if factor is not None:
                stage.set_submodule(name, RescaledLinear(linear, factor))
    return rescaled


def _factor(largest: float) -> float:
    return 2.0 ** math.ceil(math.log2(largest / _TARGET))


def _largest_outputs(
    stages: Stages, spec: StreamingSpec, utterances: Sequence[NDArray[np.float32]]
) -> dict[str, float]:
    """Return the largest magnitude of each rescalable layer, by role and name of its module.

    That of its output or, if they are larger, of its weights.
    """
    by_name = {stage.name: module for stage, module in zip(spec.stages, stages, strict=True)}
    linears = {
        f"{stage.role}.{name}": linear
        for stage in spec.stages
        for name, linear in rescalable(by_name[stage.name]).items()
    }
    largest = {
        name: max(float(weight.detach().abs().max()) for weight in linear.parameters())
        for name, linear in linears.items()
    }
    hooks = [
        linear.register_forward_hook(_recorder(largest, name)) for name, linear in linears.items()
    ]

    def open_stage(path: Path, stage: StageSpec, streams: int) -> StatefulStage:
        return open_torch(by_name[stage.name], stage, streams)

    try:
        Chain(Path(), replace(spec, layout="stages"), len(utterances), open_stage).transcribe(
            utterances
        )
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _recorder(largest: dict[str, float], name: str) -> Any:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        largest[name] = max(largest[name], float(output.abs().max()))

    return record
