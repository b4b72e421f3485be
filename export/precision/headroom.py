"""Rescale the layers of a checkpoint whose outputs would come close to the limit of float16.

The residual stream of the stages is float32, but the outputs that layers add to it are half. In
some checkpoints they reach tens of thousands. The largest outputs are measured in float32 on real
speech; layers that come close to the limit are replaced by `RescaledLinear`, all others stay as
they are. `ranges.py` then checks the result, as for any other checkpoint.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from export.precision.ranges import HEADROOM
from export.stages.rescaled import RescaledLinear, rescalable

_LIMIT = torch.finfo(torch.float16).max
NEAR = _LIMIT / HEADROOM / 4
"""Layers with outputs or weights above this are rescaled: a quarter of what is allowed, as a margin
for louder speech."""
_TARGET = _LIMIT / 64
_ROLES = ("feature_extractor", "encoder", "decoder")

AnyStages = TypeVar("AnyStages", bound=tuple[nn.Module, nn.Module, nn.Module])


def headroom_factors(stages: Sequence[nn.Module], run: Callable[[], object]) -> dict[str, float]:
    """Return the factors of the layers whose outputs are too large, by stage role and module name.

    Args:
        stages: feature extractor, encoder and decoder, in float32.
        run: runs them on real speech, without a compiled loop, into which a hook cannot see.
    """
    largest = _largest_outputs(stages, run)
    return {name: _factor(value) for name, value in largest.items() if value > NEAR}


def rescale(stages: AnyStages, factors: Mapping[str, float]) -> AnyStages:
    """Return float32 stages in which the layers that `factors` names are rescaled."""
    if not factors:
        return stages
    rescaled = copy.deepcopy(stages)
    for role, stage in zip(_ROLES, rescaled, strict=True):
        for name, linear in rescalable(stage).items():
            factor = factors.get(f"{role}.{name}")
            if factor is not None:
                stage.set_submodule(name, RescaledLinear(linear, factor))
    return rescaled


def _factor(largest: float) -> float:
    return 2.0 ** math.ceil(math.log2(largest / _TARGET))


def _largest_outputs(stages: Sequence[nn.Module], run: Callable[[], object]) -> dict[str, float]:
    """Return the largest magnitude of each rescalable layer, by stage role and module name.

    It is that of the output or of the weights, whichever is larger.
    """
    linears = {
        f"{role}.{name}": linear
        for role, stage in zip(_ROLES, stages, strict=True)
        for name, linear in rescalable(stage).items()
    }
    largest = {
        name: max(float(weight.detach().abs().max()) for weight in linear.parameters())
        for name, linear in linears.items()
    }
    hooks = [
        linear.register_forward_hook(_recorder(largest, name)) for name, linear in linears.items()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _recorder(largest: dict[str, float], name: str) -> Any:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        largest[name] = max(largest[name], float(output.abs().max()))

    return record
