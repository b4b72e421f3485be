"""Measure how close half precision comes to overflow, without a GPU.

ONNX Runtime on the CPU computes half-precision nodes in float32 and rounds only some results, which
hides overflow. So the stages run in torch, which rounds every result to its type in the graph, and
the largest value of every half tensor is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

from export.audio import SAMPLE_RATE_HZ
from export.errors import ParityFailed
from export.stages.half import DTYPES
from export.stages.offline.fused_encoder import MASKED

HEADROOM = 4.0
"""The largest value must be smaller than the type's largest by this factor, since speech varies."""
LONGEST_S = 180
LONG_STREAMS = 4

_HALF = (torch.float16, torch.bfloat16)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class HalfRange:
    """Largest values in half precision over real speech, for the manifest."""

    largest: dict[str, float]
    """Largest magnitude of each half tensor, by the module and operator that compute it."""
    limit: float
    """The largest value of the type."""


def half_facts(factors: Mapping[str, float], found: HalfRange) -> dict[str, Any]:
    """Return the entries of a manifest about half precision.

    Args:
        factors: the factors of rescaled layers, by stage role and module name.
    """
    return {"half_precision": {"rescaled": dict(factors), **asdict(found)}}


def half_range(run: Callable[[], _Result], precision: str) -> tuple[_Result, HalfRange]:
    """Return the result of `run`, which computes in `precision`, and the range of its values.

    Raises:
        ParityFailed: a half tensor overflows or nearly does; the message names its operator.
    """
    with ModuleTracker() as modules, _HalfRanges(modules) as ranges:
        result = run()
    _, dtype = DTYPES[precision]
    limit = torch.finfo(dtype).max
    _require_headroom(ranges.largest, limit)
    largest = dict(sorted(ranges.largest.items(), key=lambda item: -item[1]))
    return result, HalfRange(largest, limit)


class _HalfRanges(TorchDispatchMode):
    """Records the largest magnitude of every half tensor that is computed in the context.

    A mask of scores is large on purpose: neither the mask nor masked scores are recorded.
    """

    def __init__(self, modules: ModuleTracker) -> None:
        super().__init__()
        self.largest: dict[str, float] = {}
        self._modules = modules
        self._masks: list[Tensor] = []
        """Kept alive, so that no other tensor gets their memory."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        computed = _half_tensors(result)
        if computed:
            known = {_memory(tensor) for tensor in _half_tensors((args, kwargs))}
            for tensor in computed:
                # A view of an input has no new values; a cast has, and that is where values leave
                # the range.
                if _memory(tensor) not in known and not self._is_masked(func, known):
                    self._keep(func, tensor)
        return result

    def _is_masked(self, func: Any, inputs: set[int]) -> bool:
        """Return True if the operation adds a mask to scores."""
        return func is torch.ops.aten.add.Tensor and any(
            _memory(mask) in inputs for mask in self._masks
        )

    def _keep(self, func: Any, tensor: Tensor) -> None:
        module = max(self._modules.parents - {"Global"}, key=len, default="")
        name = f"{module} {func.__name__.partition('.')[0]}"
        value = float(tensor.abs().max())
        masked = torch.tensor(MASKED, dtype=tensor.dtype)
        if value == -masked and bool(((tensor == 0) | (tensor == masked)).all()):
            self._masks.append(tensor)
            return
        known = self.largest.get(name, 0.0)
        # An entry that grows moves to the end, so that the first overflow precedes its
        # consequences. A NaN stays where it first occurred.
        if not math.isnan(known) and not value <= known:
            self.largest.pop(name, None)
            self.largest[name] = value


def _half_tensors(values: Any) -> list[Tensor]:
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return [tensor for tensor in tensors if tensor.dtype in _HALF and tensor.numel()]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _require_headroom(largest: dict[str, float], limit: float) -> None:
    """Refuse the first tensor, in the order of computation, that is too large."""
    for where, value in largest.items():
        if not value <= limit / HEADROOM:
            raise ParityFailed(
                f"half precision reaches {value:.3g} at {where}, allowed is "
                f"{limit / HEADROOM:.3g} (the type ends at {limit:.3g}); choose "
                "--precision bf16 or fp32"
            )


def long_utterances(
    recordings: Sequence[NDArray[np.float32]], streams: int = LONG_STREAMS
) -> list[NDArray[np.float32]]:
    """Return utterances of minutes: all recordings in sequence, each starting with another one."""
    starts = [index * len(recordings) // streams for index in range(streams)]
    chains = [np.concatenate([*recordings[start:], *recordings[:start]]) for start in starts]
    return [chain[: LONGEST_S * SAMPLE_RATE_HZ] for chain in chains]
