"""Measure half precision without a GPU: its effect on tokens, and its distance from overflow.

ONNX Runtime on the CPU computes half-precision nodes in float32 and rounds only some results, so
that it hides overflow. Here the stages run in torch, which rounds every result to its type in the
graph, and the largest value of every half tensor is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

from export.audio import SAMPLE_RATE_HZ
from export.errors import ParityFailed
from export.parity import token_difference
from export.spec import StageSpec
from export.stages.state import Stage
from export.streaming.chain import Chain, OpenStage
from export.streaming.reference import ReferenceResult
from export.streaming.spec import StreamingSpec
from export.tensorrt.flat import StatefulStage, open_onnx, open_torch

HEADROOM = 4.0
"""The largest half value must stay this factor below the type's largest, since speech varies."""
LONGEST_S = 180

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Numerics:
    """Measurements of half precision over real speech with chained state, for the manifest."""

    audio_seconds: float
    token_difference: float
    """Edits per token of the float32 reference, each tensor rounded to its type in the graph."""
    onnx_token_difference: float | None
    """The same for the ONNX files in ONNX Runtime; None for bf16, which it does not support."""
    largest: dict[str, float]
    """Largest magnitude of each half tensor, by the module and operator that compute it."""
    limit: float
    """The largest value of the type."""


class _HalfRanges(TorchDispatchMode):
    """Records the largest magnitude of every half tensor that is computed in the context."""

    def __init__(self, modules: ModuleTracker) -> None:
        super().__init__()
        self.largest: dict[str, float] = {}
        self._modules = modules

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        computed = _half_tensors(result)
        if computed:
            known = {_memory(tensor) for tensor in _half_tensors((args, kwargs))}
            for tensor in computed:
                # A view of a known tensor has no new values; a cast has, and is where
                # values leave the range.
                if _memory(tensor) not in known:
                    self._keep(func, tensor)
        return result

    def _keep(self, func: Any, tensor: Tensor) -> None:
        module = max(self._modules.parents - {"Global"}, key=len, default="")
        name = f"{module} {func.__name__.partition('.')[0]}"
        value = float(tensor.abs().max())
        known = self.largest.get(name, 0.0)
        # Moved to the end when it grows, so that the first overflow comes before its consequences.
        # A NaN stays where it first came.
        if not math.isnan(known) and not value <= known:
            self.largest.pop(name, None)
            self.largest[name] = value


def _half_tensors(values: Any) -> list[Tensor]:
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return [tensor for tensor in tensors if tensor.dtype in _HALF and tensor.numel()]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def measure(
    folder: Path,
    stages: Sequence[Stage],
    spec: StreamingSpec,
    utterances: Sequence[NDArray[np.float32]],
    references: Sequence[ReferenceResult],
    open_exported: OpenStage = open_onnx,
) -> Numerics:
    """Run half stages over `utterances` [N], 16 kHz, chunk by chunk, and compare the tokens.

    Args:
        folder: the folder of their ONNX files.
        open_exported: opens these files.

    Raises:
        ParityFailed: a half tensor overflows or comes near it; the message names its operator.
    """
    by_name = {stage.name: half for stage, half in zip(spec.stages, stages, strict=True)}

    def open_stage(path: Path, stage: StageSpec, streams: int) -> StatefulStage:
        return open_torch(by_name[stage.name], stage, streams)

    with ModuleTracker() as modules, _HalfRanges(modules) as ranges:
        apart = replace(spec, layout="stages")
        results = Chain(Path(), apart, len(utterances), open_stage).transcribe(utterances)
    bf16 = spec.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float16
    limit = torch.finfo(dtype).max
    _require_headroom(ranges.largest, limit)
    return Numerics(
        audio_seconds=round(sum(map(len, utterances)) / SAMPLE_RATE_HZ, 2),
        token_difference=token_difference([r.tokens for r in results], references),
        onnx_token_difference=None
        if bf16
        else _of_onnx(Chain(folder, spec, len(utterances), open_exported), utterances, references),
        largest=dict(sorted(ranges.largest.items(), key=lambda item: -item[1])),
        limit=limit,
    )


def _of_onnx(
    exported: Chain,
    utterances: Sequence[NDArray[np.float32]],
    references: Sequence[ReferenceResult],
) -> float:
    results = exported.transcribe(utterances)
    return token_difference([result.tokens for result in results], references)


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
    recordings: Sequence[NDArray[np.float32]], streams: int
) -> list[NDArray[np.float32]]:
    """Return utterances of minutes: each a sequence of all recordings, from another one on."""
    starts = [index * len(recordings) // streams for index in range(streams)]
    chains = [np.concatenate([*recordings[start:], *recordings[:start]]) for start in starts]
    return [chain[: LONGEST_S * SAMPLE_RATE_HZ] for chain in chains]
