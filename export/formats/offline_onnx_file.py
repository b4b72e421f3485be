"""Write offline stages to ONNX files, with free axes for batch and time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from export.audio import HOP_SAMPLES
from export.formats.onnx_file import OPSET, silenced
from export.spec import StageSpec

_EXAMPLE_MEL_FRAMES = 100
_EXAMPLE_FRAMES = 13


def export_offline_onnx(
    folder: Path, stages: Sequence[nn.Module], specs: Sequence[StageSpec], max_mel_frames: int
) -> None:
    """Write each of `stages` to `<name>/1/model.onnx` in `folder`.

    Args:
        specs: describe the stages, in the same order.
        max_mel_frames: number of mel frames of the longest utterance.
    """
    # At least two frames: an axis of one is exported with a fixed size.
    time = [
        (HOP_SAMPLES * _EXAMPLE_MEL_FRAMES, HOP_SAMPLES * Dim("hops", min=2, max=max_mel_frames)),
        (_EXAMPLE_MEL_FRAMES, Dim("mel_frames", min=2, max=max_mel_frames)),
        (_EXAMPLE_FRAMES, Dim("frames", max=max_mel_frames)),
    ]
    for stage, stage_spec, (example, axis) in zip(stages, specs, time, strict=True):
        path = folder / stage_spec.name / "1" / "model.onnx"
        _export(stage, stage_spec, example, axis, path)


def _export(stage: nn.Module, spec: StageSpec, example: int, axis: Any, path: Path) -> None:
    batch = Dim("batch")
    with torch.no_grad(), silenced():
        program = torch.onnx.export(
            stage.eval(),
            _examples(spec, example),
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=({0: batch, 1: axis}, {0: batch}),
            verbose=False,
        )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path)


def _examples(spec: StageSpec, length: int) -> tuple[Tensor, Tensor]:
    """Return a batch of two; the graph does not depend on its values."""
    values, _ = spec.inputs
    return torch.ones(2, length, *values.dims[1:]), torch.full((2, 1), length, dtype=torch.int32)
