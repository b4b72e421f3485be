"""Export a streaming checkpoint to TensorRT, for this machine's GPU and Triton's backend.

The steps are graphs, graph gate, numerics, engines and verification.

Checks that need no GPU come first: the graph gate takes a second, the half-precision numerics a
minute, and the build of an engine many minutes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.formats.onnx_file import export_flat_onnx
from export.install import Replacement, write_configs, write_tokenizer
from export.manifest import file_sha256, write_manifest
from export.options import ExportOptions, Report
from export.parity import Parity
from export.precision.ranges import long_utterances
from export.recordings import load_recordings
from export.stages.state import Stage
from export.streaming.chain import OpenStage
from export.streaming.config import config_files
from export.streaming.export import spec_of
from export.streaming.reference import transcribe
from export.streaming.spec import StreamingSpec
from export.tensorrt.flat import open_onnx
from export.tensorrt.fp8 import modelopt_python, quantize_encoder_fp8
from export.tensorrt.graph_gate import check_graph
from export.tensorrt.numerics import Numerics, measure
from export.tensorrt.profiles import chunk_profiles
from export.tensorrt.stages import rescaled_stages
from export.tensorrt.targets import Target, manifest_entry, target_of
from export.tensorrt.verify import verify_engines

OPSETS = {"fp32": 20, "fp16": 20, "bf16": 22, "fp8": 20}
"""ONNX opset by precision; Conv supports bf16 from opset 22 on."""


def export_tensorrt(
    checkpoint: Checkpoint, options: ExportOptions, new: Replacement, report: Report
) -> Parity:
    """Build the engines of `checkpoint`, to be installed; see the module for the steps.

    Raises:
        UnsupportedOption: this machine lacks TensorRT, a GPU or modelopt, or the checkpoint does
            not support the chunk length.
        GateFailed: a graph is refused, half precision overflows, or a build or an engine fails.
    """
    began = time.monotonic()
    target = target_of(options)
    checkpoint.require_chunk(options.chunk_ms)
    if options.precision == "fp8":
        modelopt_python()
    speech = [recording.samples for recording in load_recordings()]
    stages, factors = rescaled_stages(checkpoint, options, speech)
    spec = spec_of(checkpoint, stages, options)
    folder = new.add(spec.models, spec.obsolete_models)
    write_graphs(folder, stages, spec, speech, report)
    facts = target.facts | {"rescaled": factors}
    if options.precision != "fp32":
        report("half precision on minutes of speech")
        facts["numerics"] = asdict(half_numerics(checkpoint, folder, stages, spec, speech))
    facts |= _build(folder, spec, target, report)
    write_configs(folder, config_files(spec))
    write_tokenizer(folder / spec.text_model.name, checkpoint)
    report("comparing engines with ONNX and transformers on real speech")
    parity = _verify(checkpoint, folder, spec, stages, speech, facts)
    seconds = time.monotonic() - began
    write_manifest(folder, checkpoint, spec, parity, seconds, {manifest_entry(spec.runtime): facts})
    return parity


def write_graphs(
    folder: Path,
    stages: Sequence[Stage],
    spec: StreamingSpec,
    speech: Sequence[NDArray[np.float32]],
    report: Report,
) -> None:
    """Write the flat ONNX file of each stage, and check its graph.

    Raises:
        GraphRefused: see `check_graph`.
    """
    for stage, stage_spec in zip(stages, spec.stages, strict=True):
        report(f"{stage_spec.name} to ONNX ({spec.precision})")
        path = folder / stage_spec.name / "1" / "model.onnx"
        export_flat_onnx(stage, stage_spec, path, OPSETS[spec.precision])
        if spec.precision == "fp8" and stage_spec.role == "encoder":
            report("calibrating fp8 on real speech")
            quantize_encoder_fp8(path, stages, spec, speech)
        check_graph(path, stage_spec)


def half_numerics(
    checkpoint: Checkpoint,
    folder: Path,
    stages: Sequence[Stage],
    spec: StreamingSpec,
    speech: Sequence[NDArray[np.float32]],
    open_exported: OpenStage = open_onnx,
) -> Numerics:
    """Measure half precision on minutes of speech with chained state; see `measure`.

    Raises:
        ParityFailed: half precision overflows or nearly does.
    """
    utterances = long_utterances(speech)
    references = transcribe(checkpoint, utterances, lookahead=spec.frames - 1)
    return measure(folder, stages, spec, utterances, references, open_exported)


def _build(folder: Path, spec: StreamingSpec, target: Target, report: Report) -> dict[str, Any]:
    from export.tensorrt.engine import build_engine, tensorrt_version

    engines: dict[str, Any] = {}
    for stage in spec.stages:
        report(f"{stage.name} to a TensorRT engine")
        onnx = folder / stage.name / "1" / "model.onnx"
        profiles = chunk_profiles(stage, spec.serving.max_batch_size)
        facts = build_engine(onnx, stage, profiles, target)
        engines[stage.name] = {"source_sha256": file_sha256(onnx), **asdict(facts)}
    profile = {"min": 1, "opt": spec.serving.max_batch_size, "max": spec.serving.max_batch_size}
    return {"version": tensorrt_version(), "batch_profile": profile, "engines": engines}


def _verify(
    checkpoint: Checkpoint,
    folder: Path,
    spec: StreamingSpec,
    stages: Sequence[Stage],
    speech: Sequence[NDArray[np.float32]],
    facts: dict[str, Any],
) -> Parity:
    differences, parity = verify_engines(checkpoint, folder, spec, stages, speech)
    for name, difference in differences.items():
        facts["engines"][name]["differs_from_onnx"] = asdict(difference)
    return parity
