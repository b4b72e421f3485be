"""Export an offline model to TensorRT: graphs, graph gate, engines, verification.

Feature extractor, encoder and the decoder of a CTC model become engines, with a profile for each
bucket. The decoder of a transducer does not: without a loop it would take thousands of steps, most
of them unnecessary, and with a loop it would wait for the GPU after each step. It is a small part
of the work and stays in ONNX Runtime on the CPU, with the same file as without a GPU.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from export.checkpoint import Checkpoint
from export.formats.offline_onnx_file import export_offline_onnx
from export.formats.onnx_stage import open_stateless
from export.install import Replacement, write_configs, write_tokenizer
from export.manifest import file_sha256, write_manifest
from export.offline.chain import OpenOfflineStage, RunOfflineStage
from export.offline.config import config_files
from export.offline.export import build_stages, spec_of
from export.offline.parity import check_offline_parity
from export.offline.spec import OfflineSpec
from export.options import ExportOptions, Report
from export.parity import Parity
from export.recordings import load_recordings
from export.spec import StageSpec
from export.tensorrt.graph_gate import check_graph
from export.tensorrt.profiles import bucket_profiles
from export.tensorrt.targets import Target, manifest_entry, target_of

_BYTES = 4
"""Size of every element of every tensor: float32, or a 32-bit integer."""


def export_offline_tensorrt(
    checkpoint: Checkpoint, options: ExportOptions, new: Replacement, report: Report
) -> Parity:
    """Build the engines of `checkpoint` for whole utterances, in float32, to be installed.

    Raises:
        UnsupportedOption: this machine has no TensorRT or GPU.
        GateFailed: a graph is refused, a build fails, or an engine differs from the original.
    """
    began = time.monotonic()
    target = target_of(options)
    spec = spec_of(checkpoint, options)
    folder = new.add(spec.models, spec.obsolete_models)
    write_offline_graphs(folder, build_stages(checkpoint, spec), spec, report)
    facts = target.facts | _build(folder, spec, target, report)
    write_configs(folder, config_files(spec))
    write_tokenizer(folder / spec.text_model.name, checkpoint)
    speech = [recording.samples for recording in load_recordings()]
    report("comparing engines with transformers on real speech")
    parity = check_offline_parity(checkpoint, folder, spec, speech, open_engines(spec))
    seconds = time.monotonic() - began
    write_manifest(folder, checkpoint, spec, parity, seconds, {manifest_entry(spec.runtime): facts})
    return parity


def write_offline_graphs(
    folder: Path, stages: tuple[nn.Module, ...], spec: OfflineSpec, report: Report
) -> None:
    """Write the ONNX file of each stage, and check those that become engines.

    Raises:
        GraphRefused: see `check_graph`.
    """
    report("offline stages to ONNX")
    export_offline_onnx(folder, stages, spec.stages, spec.max_mel_frames)
    for stage in engine_stages(spec):
        check_graph(folder / stage.name / "1" / "model.onnx", stage)


def engine_stages(spec: OfflineSpec) -> list[StageSpec]:
    """Return the stages that become engines."""
    return [stage for stage in spec.stages if not spec.is_loop(stage)]


def open_engines(spec: OfflineSpec) -> OpenOfflineStage:
    """Return a function that opens a stage in the runtime that will serve it."""
    from export.tensorrt.engine import open_offline_engine

    def open_stage(path: Path, stage: StageSpec) -> RunOfflineStage:
        if spec.is_loop(stage):
            return open_stateless(path, stage)
        return open_offline_engine(path, stage, spec.lengths(stage.inputs))

    return open_stage


def buffer_bytes(stage: StageSpec, spec: OfflineSpec) -> int:
    """Return the bytes of a stage's inputs and outputs, for the largest batch and bucket."""
    return (
        spec.serving.max_batch_size
        * _BYTES
        * sum(
            math.prod(spec.lengths(tensors)[-1] if dim == -1 else dim for dim in tensor.dims)
            for tensors in (stage.inputs, stage.outputs)
            for tensor in tensors
        )
    )


def _build(folder: Path, spec: OfflineSpec, target: Target, report: Report) -> dict[str, Any]:
    from export.tensorrt.engine import build_engine, tensorrt_version

    engines: dict[str, Any] = {}
    for stage in engine_stages(spec):
        report(f"{stage.name} to a TensorRT engine")
        onnx = folder / stage.name / "1" / "model.onnx"
        facts = build_engine(onnx, stage, bucket_profiles(stage, spec), target)
        engines[stage.name] = {
            "source_sha256": file_sha256(onnx),
            **asdict(facts),
            # The configs lack this, because they leave the length free.
            "buffer_bytes": buffer_bytes(stage, spec),
        }
    return {"version": tensorrt_version(), "buckets_ms": list(spec.buckets_ms), "engines": engines}
