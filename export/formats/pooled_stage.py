"""Run the parts of an exported model on the CPU, with its state pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.formats.onnx_file import TORCH_DTYPES
from export.formats.packed_adapters import PackedAdapters, pools_of
from export.formats.parts import END, MODEL, ROUNDS_PART
from export.formats.torch_file import SUFFIX
from export.spec import ADAPTED, StageSpec

Function = Callable[..., tuple[Tensor, ...]]
OpenPart = Callable[[str], Function]
"""Opens the part with the given name."""


class PooledStage:
    """An exported model with the state pools of its streams.

    Args:
        adapters: adapters to run the model with; its parts are then those that take adapters.
    """

    def __init__(
        self,
        open_part: OpenPart,
        spec: StageSpec,
        streams: int,
        adapters: PackedAdapters | None = None,
    ) -> None:
        self.spec = spec
        self._adapters = adapters
        self._model = open_part(MODEL)
        self._pools = [
            torch.zeros(streams * state.rows, state.width, dtype=TORCH_DTYPES[state.dtype])
            for state in spec.states
        ]
        self._loop = spec.has_loop
        if self._loop:
            self._rounds, self._end = open_part(ROUNDS_PART), open_part(END)

    @torch.inference_mode()
    def step(self, inputs: Sequence[NDArray[Any]], slots: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Process one chunk of the streams in `slots` [B]; return the stage's outputs [B, ...]."""
        tensors = [torch.from_numpy(values) for values in inputs]
        at = torch.from_numpy(slots)
        results = self._model(*tensors, *self._pools, at, *self._adapters_of(slots))
        states = len(self._pools)
        if self._loop:
            # The decoder's update follows its loop; those of the other stages precede it.
            until = len(results) - 2 * (states - 1)
            *outputs, values, rows = self._close(results[:until])
            updates = (*results[until:], values, rows)
        else:
            outputs, updates = results[: -2 * states], results[-2 * states :]
        for index, state in enumerate(self.spec.states):
            values, rows = updates[2 * index : 2 * index + 2]
            self._pools[index][at[:, None] * state.rows + rows] = values
        return [output.numpy() for output in outputs]

    def _adapters_of(self, slots: NDArray[np.int64]) -> list[Tensor]:
        if self._adapters is None:
            return []
        slots = self._adapters.slots[slots]
        return [*pools_of(self.spec, self._adapters.pools), torch.from_numpy(slots)]

    def _close(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pending = True
        while pending:
            *loop_state, pending = self._rounds(*values)
            values = (*values[: -len(loop_state)], *loop_state)
        return self._end(*values)


def open_torch_stage(
    path: Path, spec: StageSpec, streams: int, adapters: PackedAdapters | None = None
) -> PooledStage:
    """Open the programs of torch.export in the folder of `path`, the file of the other runtimes.

    Args:
        adapters: adapters to run the model with, if it takes any.
    """
    adapters = adapters if spec.adapters else None
    folder = path.parent if adapters is None else path.parent / ADAPTED
    return PooledStage(lambda part: _load(folder / f"{part}{SUFFIX}"), spec, streams, adapters)


@lru_cache(maxsize=9)
def _load(path: Path) -> Any:
    """Load a program, cached: a comparison opens the same programs often, for seconds each."""
    return torch.export.load(path).module()
