"""Hold the adapters of a comparison in the form that the exported stages expect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.formats.onnx_file import TORCH_DTYPES
from export.spec import StageSpec

Parts = Mapping[str, NDArray[np.float32]]
"""An adapter: rows [rows, width] by the role of the stage that they change."""


@dataclass(frozen=True)
class PackedAdapters:
    """Adapters of the streams or utterances of a chain."""

    pools: Parts
    """Rows [adapters * rows, width] of all adapters."""
    slots: NDArray[np.int64]
    """The adapter of each stream or utterance, [B]."""

    @classmethod
    def of_each(cls, adapters: Sequence[Parts], utterances: int) -> PackedAdapters:
        """Pack adapters, each for `utterances` consecutive utterances."""
        return cls(
            pools={
                role: np.concatenate([parts[role] for parts in adapters]) for role in adapters[0]
            },
            slots=np.repeat(np.arange(len(adapters)), utterances),
        )


def no_adapter(models: Iterable[StageSpec]) -> Parts:
    """Return the adapter that changes nothing."""
    return {
        role: np.zeros((layout.rows, layout.width), np.float32)
        for model in models
        for role, layout in model.adapters.items()
    }


def pools_of(model: StageSpec, pools: Parts) -> list[Tensor]:
    """Return the pools that a torch program takes, in its order and precision."""
    return [
        torch.from_numpy(pools[role]).to(TORCH_DTYPES[layout.dtype])
        for role, layout in model.adapters.items()
    ]
