"""Open the programs that the export wrote with torch.export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass

from . import fused_ops as fused_ops  # Registers the operations that programs refer to by name.
from .errors import BadStage
from .program import MODEL, Function, Program, compose, read_description
from .spec import StageSpec

_DESCRIPTION = "earshot.json"


def open_program(folder: Path, spec: StageSpec, device: torch.device) -> Program:
    """Load the program in `folder`.

    Raises:
        BadStage: The program and the config disagree.
    """
    path = folder / f"{MODEL}.pt2"
    model, text = _load(path, spec, device)
    description = read_description(text, spec, path)
    return compose(
        spec,
        path,
        description,
        lambda part: model if part == MODEL else _load(folder / f"{part}.pt2", spec, device)[0],
    )


def _load(path: Path, spec: StageSpec, device: torch.device) -> tuple[Function, str]:
    extra = {_DESCRIPTION: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
        # The program was traced on the CPU, and constants inside the graph contain their device.
        program = move_to_device_pass(program, str(device))
    except Exception as error:  # torch's own exceptions share no base class
        raise BadStage(f"{spec.model}: cannot load {path}: {error}") from error
    return program.module(), extra[_DESCRIPTION]
