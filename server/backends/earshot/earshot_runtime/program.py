"""Describe a model as functions of tensors on one device, independent of the runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import BadStage
from .spec import StageSpec, TensorSpec

FORMAT = 2
MODEL, ROUNDS, END = "model", "rounds", "end"
"""The parts of a model, and the stems of their files; see `export/formats/parts.py`."""

Function = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class PoolSpec:
    """The pool of states or adapters of one stage, with `rows` rows of `width` values each."""

    rows: int
    width: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Loop:
    """A decoder's loop: `rounds(*carried) -> (*loop_state, PENDING)`, `end(*carried)` closes it."""

    rounds: Function
    end: Function
    runs: int
    """Runs of `rounds` before the first check for the end of the loop; for whole utterances, those
    of the longest one."""


@dataclass(frozen=True)
class Program:
    """`model(*inputs, *pools, SLOTS)` on its device."""

    model: Function
    pools: tuple[PoolSpec, ...]
    adapter_pools: tuple[PoolSpec, ...]
    """Pools of a program for streams with adapters, which takes them and ADAPTER_SLOTS as well."""
    loop: Loop | None


def compose(
    spec: StageSpec, path: Path, description: dict[str, Any], open_part: Callable[[str], Function]
) -> Program:
    """Return the program that the export described.

    Args:
        path: the path of the description, for errors.
        open_part: opens MODEL, ROUNDS or END.

    Raises:
        BadStage: The description and the config disagree.
    """
    if description["format"] != FORMAT:
        raise BadStage(
            f"{spec.model}: {path} has format {description['format']}, expected {FORMAT}; "
            "export the model again"
        )
    _check(spec, "input", spec.inputs, description["inputs"], path)
    _check(spec, "output", spec.outputs, description["outputs"], path)
    pools, adapter_pools = _pools(description["pools"]), _pools(description["adapter_pools"])
    runs = int(description["runs_of_rounds"])
    loop = Loop(open_part(ROUNDS), open_part(END), runs) if runs else None
    return Program(open_part(MODEL), pools, adapter_pools, loop)


def _pools(description: list[dict[str, Any]]) -> tuple[PoolSpec, ...]:
    return tuple(
        PoolSpec(pool["rows"], pool["width"], getattr(torch, pool["dtype"])) for pool in description
    )


def read_description(text: str, spec: StageSpec, path: Path) -> dict[str, Any]:
    """Parse a description, or raise BadStage if there is none."""
    if not text:
        raise BadStage(f"{spec.model}: {path} was not written by this export")
    return json.loads(text)


def _check(
    spec: StageSpec,
    role: str,
    config: tuple[TensorSpec, ...],
    program: list[dict[str, Any]],
    path: Path,
) -> None:
    got = [TensorSpec(t["name"], np.dtype(t["dtype"]), tuple(t["dims"])) for t in program]
    if list(config) != got:
        raise BadStage(
            f"{spec.model}: config and {path.name} disagree on the {role}s: the config has "
            f"{_described(config)}, the program has {_described(got)}; export the model again"
        )


def _described(tensors: Any) -> str:
    return ", ".join(f"{t.name} {t.dtype} {list(t.dims)}" for t in tensors)
