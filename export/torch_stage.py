"""Run one exported program of ``torch.export`` on the CPU, its state pools beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.spec import StageSpec
from export.torch_file import END, MODEL, ROUNDS_FILE


class TorchStage:
    """One exported model and the pools of its streams' states."""

    def __init__(self, folder: Path, spec: StageSpec, streams: int) -> None:
        self.spec = spec
        self._model: Any = torch.export.load(folder / MODEL)
        self._pools = [
            torch.zeros(streams * state.rows, state.width, dtype=dtype)
            for state, dtype in zip(spec.states, self._pool_dtypes(), strict=True)
        ]
        self._model = self._model.module()
        self._loop = (folder / ROUNDS_FILE).exists()
        if self._loop:
            self._rounds: Any = torch.export.load(folder / ROUNDS_FILE).module()
            self._end: Any = torch.export.load(folder / END).module()

    def _pool_dtypes(self) -> list[torch.dtype]:
        """Of the program's inputs before the last, which is SLOTS."""
        placeholders = [n for n in self._model.graph.nodes if n.op == "placeholder"]
        return [n.meta["val"].dtype for n in placeholders[-len(self.spec.states) - 1 : -1]]

    def reset(self) -> None:
        """All streams start again."""
        for pool in self._pools:
            pool.zero_()

    @torch.inference_mode()
    def step(self, inputs: Sequence[NDArray[Any]], slots: NDArray[np.int64]) -> list[NDArray[Any]]:
        """One chunk of the streams in ``slots`` [B]; returns the stage's outputs [B, ...]."""
        tensors = [torch.from_numpy(values) for values in inputs]
        at = torch.from_numpy(slots)
        results = self._model(*tensors, *self._pools, at)
        states = len(self._pools)
        if self._loop:
            # The decoder's update is known behind its loop; those of the others come before it.
            carried = len(results) - 2 * (states - 1)
            *outputs, values, rows = self._close(results[:carried])
            updates = (*results[carried:], values, rows)
        else:
            outputs, updates = results[: -2 * states], results[-2 * states :]
        for index, state in enumerate(self.spec.states):
            values, rows = updates[2 * index : 2 * index + 2]
            self._pools[index][at[:, None] * state.rows + rows] = values
        return [output.numpy() for output in outputs]

    def _close(self, carried: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pending = True
        while pending:
            *moving, pending = self._rounds(*carried)
            carried = (*carried[: -len(moving)], *moving)
        return self._end(*carried)
