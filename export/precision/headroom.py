"""Rescale the layers of a checkpoint whose outputs would come near the end of float16.

The residual stream of the stages is float32, but what the layers add to it is half. Some
checkpoints reach tens of thousands there. The largest outputs are measured in float32 on real
speech; layers that come near the limit are replaced by `RescaledLinear`, all others stay as they
are. `ranges.py` then checks the result, as for any other checkpoint.
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
"""Outputs and weights above are rescaled: a fourth of what is allowed, for louder speech."""
_TARGET = _LIMIT / 64
_ROLES = ("feature_extractor", "encoder", "decoder")

AnyStages = TypeVar("AnyStages", bound=tuple[nn.Module, nn.Module, nn.Module])


def headroom_factors(stages: Sequence[nn.Module], run: Callable[[], object]) -> dict[str, float]:
    """Return the factors of the layers whose outputs are too large, by role and name of module.

    Args:
        stages: feature extractor, encoder and decoder, in float32.
        run: runs them on real speech, without a compiled loop, whose steps a hook cannot look into.
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
    """Return the largest magnitude of each rescalable layer, by role and name of its module.

    That of its output or, if they are larger, of its weights.
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
