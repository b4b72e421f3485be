"""Describe tensors and models for all exported files.

`streaming/spec.py` and `offline/spec.py` name the tensors of the two ensembles in these terms; the
ONNX files and the Triton configs are written from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from export.stages.layout import AdapterLayout, StateLayout

STREAMING, OFFLINE = ENSEMBLES = ("asr_streaming", "asr_offline")
"""Roles of the models that clients call: live streams, and whole files."""
CONTRACT_VERSION = "1"
ADAPTED_CONTRACT_VERSION = "2"
"""The contract of ensembles whose clients have to name an adapter when a stream starts."""
ADAPTED = "adapted"
"""Folder of the variant with adapters, beside the files of a model."""


def served_name(name: str, role: str) -> str:
    """Return the name of the model of `role` in Triton; `name` is that of its recognizer."""
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

    `outputs` are those of the engine, `text` the outputs that the backend computes from them.
    `state` is `None` for a model without state between chunks, and for a model that consists of
    consecutive `members`; `adapter` is `None` for a model that adapters do not change.
    """

    role: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: StateLayout | None = None
    prefix: str = ""
    members: tuple[StageSpec, ...] = ()
    adapter: AdapterLayout | None = None
    text: tuple[TensorSpec, ...] = ()

    @property
    def responses(self) -> tuple[TensorSpec, ...]:
        """Return all outputs of the model."""
        return (*self.outputs, *self.text)

    @property
    def name(self) -> str:
        """Return the name of the model in Triton."""
        return served_name(self.prefix, self.role)

    @property
    def states(self) -> tuple[StateLayout, ...]:
        """Return the states that the model keeps for a stream, in the order of its members."""
        own = () if self.state is None else (self.state,)
        return own + tuple(state for member in self.members for state in member.states)

    @property
    def has_loop(self) -> bool:
        """Return whether the model decodes in a loop whose length depends on the speech."""
        return self.role == "decoder" or any(member.has_loop for member in self.members)

    @property
    def adapters(self) -> dict[str, AdapterLayout]:
        """Return the parts of an adapter that change the model, by the role of its stage."""
        own = {} if self.adapter is None else {self.role: self.adapter}
        return own | {
            role: layout for member in self.members for role, layout in member.adapters.items()
        }


def in_one_model(role: str, members: tuple[StageSpec, ...]) -> StageSpec:
    """Return the model that runs `members` one after the other."""
    first, *_, last = members
    return StageSpec(
        role,
        first.inputs,
        last.outputs,
        members=members,
        prefix=first.prefix,
        text=last.text,
    )


def obsolete(stages: Iterable[StageSpec], others: Iterable[str], kept: list[str]) -> list[str]:
    """Return the names of models that a recognizer has in other layouts or on other runtimes.

    Args:
        stages: the stages of the recognizer, one model each.
        others: names of models that it may have instead of or in addition to them.
        kept: names of the models that it has now.
    """
    return [name for name in (*(s.name for s in stages), *others) if name not in kept]


def adapter_sizes(models: Iterable[StageSpec]) -> dict[str, dict[str, Any]]:
    """Return the layouts of the parts of an adapter by their roles, for a manifest."""
    return {role: asdict(layout) for model in models for role, layout in model.adapters.items()}
