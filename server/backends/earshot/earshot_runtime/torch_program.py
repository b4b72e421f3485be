"""Open the programs that the export wrote with torch.export, and check the model config."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from . import fused_ops as fused_ops  # Registers the operations that programs name.
from .errors import BadStage
from .spec import StageSpec, TensorSpec

FORMAT = 2
_MODEL, _ROUNDS, _END = "model.pt2", "rounds.pt2", "end.pt2"
_DESCRIPTION = "earshot.json"

Function = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class PoolSpec:
    """The state, or the adapters, of one stage: `rows` rows of `width` values for each."""

    rows: int
    width: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Loop:
    """A decoder's loop: `rounds(*carried) -> (*loop_state, PENDING)`, `end(*carried)` closes it."""

    rounds: Function
    end: Function
    runs: int
    """Runs of `rounds` before the first check whether the loop has ended."""


@dataclass(frozen=True)
class Program:
    """`model(*inputs, *pools, SLOTS)` on its device; see `export/formats/torch_file.py`."""

    model: Function
    pools: tuple[PoolSpec, ...]
    adapter_pools: tuple[PoolSpec, ...]
    """Of a program for streams with adapters, which also takes their pools and ADAPTER_SLOTS."""
    loop: Loop | None


def open_program(folder: Path, spec: StageSpec, device: torch.device) -> Program:
    """Load the program in `folder`.

    Raises:
        BadStage: The program and the config disagree.
    """
    model, text = _load(folder / _MODEL, spec, device)
    if not text:
        raise BadStage(f"{spec.model}: {folder / _MODEL} was not written by this export")
    description = json.loads(text)
    if description["format"] != FORMAT:
        raise BadStage(
            f"{spec.model}: {folder / _MODEL} has format {description['format']}, expected "
            f"{FORMAT}; export the model again"
        )
    _check(spec, "input", spec.inputs, description["inputs"])
    _check(spec, "output", spec.outputs, description["outputs"])
    runs = int(description["runs_of_rounds"])
    return Program(
        model,
        _pools(description["pools"]),
        _pools(description["adapter_pools"]),
        _open_loop(folder, spec, device, runs) if runs else None,
    )


def _pools(description: list[dict[str, Any]]) -> tuple[PoolSpec, ...]:
    return tuple(
        PoolSpec(pool["rows"], pool["width"], getattr(torch, pool["dtype"])) for pool in description
    )


def _open_loop(folder: Path, spec: StageSpec, device: torch.device, runs: int) -> Loop:
    rounds, _ = _load(folder / _ROUNDS, spec, device)
    end, _ = _load(folder / _END, spec, device)
    return Loop(rounds, end, runs)


def _load(path: Path, spec: StageSpec, device: torch.device) -> tuple[Function, str]:
    extra = {_DESCRIPTION: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
        # Traced on the CPU: constants made inside the graph name their device.
        program = move_to_device_pass(program, str(device))
    except Exception as error:  # torch's own exceptions share no base class
        raise BadStage(f"{spec.model}: cannot load {path}: {error}") from error
    return program.module(), extra[_DESCRIPTION]


def _check(
    spec: StageSpec, role: str, config: tuple[TensorSpec, ...], program: list[dict[str, Any]]
) -> None:
    got = [TensorSpec(t["name"], np.dtype(t["dtype"]), tuple(t["dims"])) for t in program]
    if list(config) != got:
        raise BadStage(
            f"{spec.model}: config and {_MODEL} disagree on the {role}s: the config has "
            f"{_described(config)}, the program has {_described(got)}; export the model again"
        )


def _described(tensors: Any) -> str:
    return ", ".join(f"{t.name} {t.dtype} {list(t.dims)}" for t in tensors)
