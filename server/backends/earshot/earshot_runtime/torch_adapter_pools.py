"""Keep the adapters of a torch program in pools on its device.

A pool is allocated once and written in place, so that recorded CUDA graphs read what was stored
after they were recorded. The first adapter of each pool is zero and changes nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from .errors import BadStage
from .program import Program
from .spec import StageSpec


class TorchAdapterPools:
    """The pools of adapters of `program`; call all methods in its stream of operations."""

    def __init__(self, program: Program, spec: StageSpec, device: torch.device) -> None:
        """Allocate the pools, or raise BadStage if program and config disagree on their shapes."""
        shapes = [(pool.rows, pool.width) for pool in program.adapter_pools]
        expected = list(spec.adapters.shapes) if spec.adapters else []
        if shapes != expected:
            raise BadStage(
                f"{spec.model}: the program has adapters of the shapes {shapes}, the config needs "
                f"{expected}; export the model again"
            )
        capacity = spec.adapters.capacity if spec.adapters else 0
        self.tensors = [
            torch.zeros((capacity + 1) * pool.rows, pool.width, dtype=pool.dtype, device=device)
            for pool in program.adapter_pools
        ]
        """One pool [adapters * rows, width] for each stage that adapters change."""

    def store(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """Write the rows [rows, width] of an adapter into a slot of each pool."""
        for pool, part in zip(self.tensors, rows, strict=True):
            pool[slot * len(part) : (slot + 1) * len(part)] = torch.from_numpy(part)
