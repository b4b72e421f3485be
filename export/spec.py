"""Tensors and models as every exported file describes them.

`streaming/spec.py` and `offline/spec.py` name the tensors of the two ensembles in these terms; the
ONNX files and the Triton configs are written from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.stages.layout import StateLayout

CONTRACT_VERSION = "1"


def served_name(name: str, role: str) -> str:
    """What Triton calls the model of `role`; several recognizers differ in `name`."""
    return f"{name}_{role}" if name else role


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model, without its batch axis; `dtype` is Triton's name for it."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class StageSpec:
    """A model of the ensemble.

    `state` is `None` for one that holds nothing between chunks, and for one that consists of
    others, its `members` in a row.
    """

    role: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: StateLayout | None = None
    prefix: str = ""
    members: tuple[StageSpec, ...] = ()

    @property
    def name(self) -> str:
        """What Triton calls it."""
        return served_name(self.prefix, self.role)

    @property
    def states(self) -> tuple[StateLayout, ...]:
        """What it keeps of a stream, its members' in their order."""
        own = () if self.state is None else (self.state,)
        return own + tuple(state for member in self.members for state in member.states)
