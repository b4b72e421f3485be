"""Export a streaming checkpoint to TensorRT for RTX, for GPUs of other machines.

The engines are for the bundled backend: the states of all streams are in pools on the GPU, and the
decoder is three small engines, the second of which is repeated while a stream has tokens to emit.
They cannot run here, so their graphs are compared with the original in ONNX Runtime or, for bf16,
which it lacks, in torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoint import Checkpoint
from export.formats.onnx_file import write_onnx
from export.formats.onnx_stage import open_session
from export.formats.parts import BATCH, MODEL, Part, description_of, parts_of
from export.formats.pooled_stage import Function, PooledStage
from export.install import Replacement, write_configs, write_tokenizer
from export.manifest import file_sha256, write_manifest
from export.options import ExportOptions, Report
from export.parity import Parity
from export.recordings import load_recordings
from export.spec import StageSpec
from export.stages.state import Stage
from export.streaming.chain import OpenStage
from export.streaming.config import config_files, engine_slots
from export.streaming.export import spec_of
from export.streaming.parity import check_parity
from export.streaming.spec import StreamingSpec
from export.tensorrt.export import OPSETS, half_numerics
from export.tensorrt.profiles import Profile
from export.tensorrt.stages import looped_stages, rescaled_stages
from export.tensorrt.targets import NamedGpus, manifest_entry, target_of
from export.tensorrt.versions import RELEASES

DESCRIPTION = "engines.json"


def export_rtx(
    checkpoint: Checkpoint, options: ExportOptions, new: Replacement, report: Report
) -> Parity:
    """Build the engines of `checkpoint`, to be installed; see the module for a description.

    Raises:
        UnsupportedOption: TensorRT for RTX is not installed or cannot build for one of the GPUs, or
            the checkpoint does not support the chunk length.
        GateFailed: a graph is refused, half precision overflows, a build fails, or the graphs
            differ from the original.
    """
    began = time.monotonic()
    target = target_of(options)
    assert isinstance(target, NamedGpus)
    checkpoint.require_chunk(options.chunk_ms)
    speech = [recording.samples for recording in load_recordings()]
    straight, factors = rescaled_stages(checkpoint, options, speech)
    stages = looped_stages(checkpoint, options, factors)
    spec = spec_of(checkpoint, stages, options)
    folder = new.add(spec.models, spec.obsolete_models)
    from export.tensorrt.engine import tensorrt_version

    # The server compares these facts with its machine before it opens an engine.
    needed = {
        "gpus": list(options.gpus),
        "version": tensorrt_version(),
        "driver": RELEASES[spec.runtime].driver,
    }
    parts = {
        engine.name: write_parts(folder, members, engine, spec, needed, report)
        for engine, members in zip(spec.engines, members_of(stages, spec), strict=True)
    }
    open_stage = opener(parts, spec)
    facts = target.facts | {"rescaled": factors}
    if options.precision != "fp32":
        report("half precision on minutes of speech")
        # Measured with the unrolled decoder, because nothing can see into a loop; the files have
        # one.
        numerics = half_numerics(checkpoint, folder, straight, spec, speech, open_stage)
        facts["numerics"] = asdict(numerics)
    facts |= _build(folder, spec, parts, target, report)
    write_configs(folder, config_files(spec))
    write_tokenizer(folder / spec.text_model.name, checkpoint)
    report("comparing the engines' graphs with transformers on real speech")
    parity = check_parity(checkpoint, folder, spec, speech, open_stage)
    seconds = time.monotonic() - began
    write_manifest(folder, checkpoint, spec, parity, seconds, {manifest_entry(spec.runtime): facts})
    return parity


def members_of(stages: Sequence[Stage], spec: StreamingSpec) -> list[list[Stage]]:
    """Return the stages of each model of the layout."""
    return [list(stages)] if spec.layout == "fused" else [[stage] for stage in stages]


def write_parts(
    folder: Path,
    members: Sequence[Stage],
    engine: StageSpec,
    spec: StreamingSpec,
    needed: dict[str, Any],
    report: Report,
) -> list[Part]:
    """Write the ONNX file of each part of a model, and the description that the backend reads.

    Args:
        needed: entries of the description about the required machine.
    """
    report(f"{engine.role} to ONNX ({spec.precision})")
    version = folder / engine.name / "1"
    parts = parts_of(members, engine)
    for part in parts:
        path = version / f"{part.name}.onnx"
        opset, names = OPSETS[spec.precision], _input_names(part)
        write_onnx(part.module, part.arguments, (part.shapes,), path, opset, input_names=names)
    description = description_of(members, engine, spec.precision) | needed
    (version / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return parts


def opener(parts: dict[str, list[Part]], spec: StreamingSpec) -> OpenStage:
    """Return a function that opens a model on the CPU: its ONNX files or, for bf16, its modules."""

    def open_stage(path: Path, engine: StageSpec, streams: int) -> PooledStage:
        modules = {part.name: part.module for part in parts[engine.name]}
        if spec.precision == "bf16":
            return PooledStage(modules.__getitem__, engine, streams)
        return PooledStage(
            lambda name: onnx_function(path.with_name(f"{name}.onnx")), engine, streams
        )

    return open_stage


@lru_cache(maxsize=9)
def onnx_function(path: Path) -> Function:
    """Return an ONNX file as a function of tensors, in ONNX Runtime on the CPU."""
    session = open_session(path)
    names = [tensor.name for tensor in session.get_inputs()]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        values = [tensor.contiguous().numpy() for tensor in tensors]
        results = session.run(None, dict(zip(names, values, strict=True)))
        return tuple(torch.as_tensor(result) for result in results)

    return run


def _build(
    folder: Path,
    spec: StreamingSpec,
    parts: dict[str, list[Part]],
    target: NamedGpus,
    report: Report,
) -> dict[str, Any]:
    from export.tensorrt.engine import build_engine, tensorrt_version

    engines: dict[str, Any] = {}
    for engine in spec.engines:
        report(f"{engine.name} to TensorRT engines")
        for part in parts[engine.name]:
            onnx = folder / engine.name / "1" / f"{part.name}.onnx"
            facts = build_engine(onnx, engine, [part_profile(part, engine, spec)], target)
            name = engine.name if part.name == MODEL else f"{engine.name}/{part.name}"
            engines[name] = {"source_sha256": file_sha256(onnx), **asdict(facts)}
    return {"version": tensorrt_version(), "engines": engines}


def part_profile(part: Part, engine: StageSpec, spec: StreamingSpec) -> Profile:
    """Return the shapes of a part: any batch size, and pools of the backend's size."""
    slots = engine_slots(engine, spec) + 1  # One for padding.
    names = _input_names(part)
    dims = {
        name: tuple(tensor.shape[1:]) for name, tensor in zip(names, part.arguments, strict=True)
    }
    pools = [name for name, axis in zip(names, part.axes, strict=True) if axis != BATCH]
    shapes = {
        name: (slots * state.rows, state.width)
        for name, state in zip(pools, engine.states if pools else (), strict=True)
    }
    rows = {name: shape for name, shape in dims.items() if name not in shapes}
    return Profile(rows, spec.serving.max_batch_size, shapes)


def _input_names(part: Part) -> list[str]:
    return [f"IN_{index}" for index in range(len(part.arguments))]
