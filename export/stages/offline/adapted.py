"""Apply to each utterance of a batch its own adapter, or none."""

from __future__ import annotations

from torch import Tensor, nn

from export.stages.adapters import AdaptedModule, AdapterPlan, PooledAdapters


class AdaptedStage(nn.Module):
    """An offline stage as `(values, length, pool, slots) -> outputs`.

    The adapters are in `pool` [adapters * rows, width]; `slots` int64 [B] are those of the
    utterances.
    """

    def __init__(self, stage: AdaptedModule, plan: AdapterPlan) -> None:
        super().__init__()
        self.stage = stage
        self._plan = plan

    def forward(
        self, values: Tensor, length: Tensor, pool: Tensor, slots: Tensor
    ) -> tuple[Tensor, ...]:
        """Process a batch of utterances; see the class."""
        return self.stage(values, length, adapters=PooledAdapters(self._plan, pool, slots))
