"""Write offline stages to ONNX files, with free axes for batch and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from export.audio import HOP_SAMPLES
from export.formats.onnx_file import ADAPTER_SLOTS, OPSET, adapter_pools, write_onnx
from export.spec import ADAPTED, StageSpec
from export.stages.adapters import AdaptedModule
from export.stages.offline.adapted import AdaptedStage

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
    for stage, spec, (example, axis) in zip(stages, specs, _time_axes(max_mel_frames), strict=True):
        _export(stage, spec, example, axis, folder / spec.name / "1" / "model.onnx")


def export_adapted_onnx(
    folder: Path,
    stages: Sequence[AdaptedModule],
    specs: Sequence[StageSpec],
    max_mel_frames: int,
    adapter_rank: int,
) -> None:
    """Write each stage that adapters change to `<name>/1/adapted/model.onnx` in `folder`.

    The graphs also take `ADAPTER_POOL` float32 [adapters * rows, width] and `ADAPTER_SLOTS` int64
    [B]. See `export_offline_onnx` for the arguments.
    """
    for stage, spec, (example, axis) in zip(stages, specs, _time_axes(max_mel_frames), strict=True):
        plan = stage.adapter_plan(adapter_rank)
        if plan is not None:
            path = folder / spec.name / "1" / ADAPTED / "model.onnx"
            _export(AdaptedStage(stage, plan), spec, example, axis, path, adapted=True)


def _time_axes(max_mel_frames: int) -> Iterator[tuple[int, Any]]:
    """Yield an example length and the free time axis for each stage."""
    # At least two frames, because an axis of size one is exported with a fixed size.
    hops = Dim("hops", min=2, max=max_mel_frames)
    yield HOP_SAMPLES * _EXAMPLE_MEL_FRAMES, HOP_SAMPLES * hops
    yield _EXAMPLE_MEL_FRAMES, Dim("mel_frames", min=2, max=max_mel_frames)
    yield _EXAMPLE_FRAMES, Dim("frames", max=max_mel_frames)


def _export(
    stage: nn.Module, spec: StageSpec, example: int, axis: Any, path: Path, *, adapted: bool = False
) -> None:
    batch = Dim("batch")
    arguments: list[Tensor] = [*_examples(spec, example)]
    names = [tensor.name for tensor in spec.inputs]
    shapes: list[dict[int, Any]] = [{0: batch, 1: axis}, {0: batch}]
    if adapted:
        [(pool, layout)] = adapter_pools(spec).items()
        arguments += [torch.zeros(3 * layout.rows, layout.width), torch.tensor([0, 2])]
        names += [pool, ADAPTER_SLOTS]
        shapes += [{0: Dim("adapter_rows")}, {0: batch}]
    write_onnx(
        stage.eval(),
        tuple(arguments),
        tuple(shapes),
        path,
        OPSET,
        input_names=names,
        output_names=[tensor.name for tensor in spec.outputs],
    )


def _examples(spec: StageSpec, length: int) -> tuple[Tensor, Tensor]:
    """Return a batch of two; the graph does not depend on its values."""
    values, _ = spec.inputs
    return torch.ones(2, length, *values.dims[1:]), torch.full((2, 1), length, dtype=torch.int32)
