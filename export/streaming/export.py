"""Export a streaming checkpoint: stages, ONNX or torch files, configs, comparison, manifest."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint
from export.formats.onnx_file import export_onnx, quantize_encoder
from export.formats.open_stage import open_stage
from export.formats.packed_adapters import no_adapter
from export.formats.torch_file import export_torch
from export.install import Replacement, write_configs, write_tokenizer
from export.manifest import write_manifest
from export.options import ExportOptions, Report
from export.parity import Parity
from export.precision.ranges import half_facts
from export.recordings import load_recordings
from export.spec import ADAPTED
from export.stages.decoder import Decoder
from export.stages.encoder import Encoder
from export.stages.feature_extractor import FeatureExtractor
from export.stages.half import Stages, half_stages
from export.stages.state import Stage
from export.streaming.adapter_parity import check_adapters
from export.streaming.config import config_files
from export.streaming.half import range_of, rescaled
from export.streaming.parity import check_parity
from export.streaming.spec import StreamingSpec


def build_stages(checkpoint: Checkpoint, frames: int, decoder: type[Decoder] = Decoder) -> Stages:
    """Return feature extractor, encoder and decoder for chunks of `frames` encoder frames."""
    features = checkpoint.processor.feature_extractor
    return (
        FeatureExtractor(features.mel_filters, features.preemphasis, frames),
        Encoder(checkpoint.model, frames),
        decoder(checkpoint.model, frames),
    )


def spec_of(checkpoint: Checkpoint, stages: Stages, options: ExportOptions) -> StreamingSpec:
    """Return the tensors, states and settings of the models that the export writes."""
    config = checkpoint.model.config
    feature_extractor, encoder, decoder = stages
    rank = options.serving.adapter_rank if options.serving.adapters else 0
    encoder_plan, decoder_plan = encoder.adapter_plan(rank), decoder.adapter_plan(rank)
    return StreamingSpec(
        checkpoint=checkpoint.name,
        chunk_ms=options.chunk_ms,
        num_mel_bins=config.encoder_config.num_mel_bins,
        encoded_size=config.decoder_hidden_size,
        max_tokens=options.frames * config.max_symbols_per_step,
        feature_state=feature_extractor.layout,
        encoder_state=encoder.layout,
        decoder_state=decoder.layout,
        runtime=options.runtime,
        precision=options.precision,
        layout=options.layout or "stages",
        serving=options.serving,
        name=options.name,
        checkpoint_sha256=checkpoint.sha256,
        encoder_adapter=encoder_plan and encoder_plan.layout,
        decoder_adapter=decoder_plan and decoder_plan.layout,
    )


def export_streaming(
    checkpoint: Checkpoint, options: ExportOptions, new: Replacement, report: Report
) -> Parity | None:
    """Build the streaming models of `checkpoint`, for ONNX Runtime or torch, to be installed.

    Args:
        new: collects the models; other models of its repository stay as they are.
        report: called with the name of each step as it begins.

    Returns:
        The comparison with `transformers`; None if `options` ask for none.

    Raises:
        UnsupportedOption: the checkpoint was not trained for this chunk length.
        ParityFailed: half precision overflows, or the result differs from the original.
    """
    began = time.monotonic()
    checkpoint.require_chunk(options.chunk_ms)
    stages = build_stages(checkpoint, options.frames)
    facts: dict[str, Any] = {}
    if options.runtime == "torch" and options.precision != "fp32":
        stages, facts = _half(checkpoint, stages, options, report)
    spec = spec_of(checkpoint, stages, options)
    folder = new.add(spec.models, spec.obsolete_models)
    _write_engines(folder, stages, spec, report)
    write_configs(folder, config_files(spec))
    write_tokenizer(folder / spec.text_model.name, checkpoint)
    parity = _compare(checkpoint, folder, spec, report) if options.compare else None
    write_manifest(folder, checkpoint, spec, parity, time.monotonic() - began, facts)
    return parity


def _half(
    checkpoint: Checkpoint, stages: Stages, options: ExportOptions, report: Report
) -> tuple[Stages, dict[str, Any]]:
    """Return the stages in half precision, and entries of the manifest about the range of values.

    Without a comparison nothing is measured, and no layer is rescaled.
    """
    if not options.compare:
        return half_stages(stages, options.precision), {}
    report("half precision on minutes of speech")
    speech = [recording.samples for recording in load_recordings()]
    exact = spec_of(checkpoint, stages, replace(options, precision="fp32"))
    stages, factors = rescaled(stages, exact, options.precision, speech)
    stages = half_stages(stages, options.precision)
    found = range_of(stages, spec_of(checkpoint, stages, options), speech)
    return stages, half_facts(factors, found)


def _compare(checkpoint: Checkpoint, folder: Path, spec: StreamingSpec, report: Report) -> Parity:
    report("comparing with transformers on real speech")
    utterances = [recording.samples for recording in load_recordings()]
    opened = partial(open_stage, spec.runtime)
    parity = check_parity(checkpoint, folder, spec, utterances, opened)
    if spec.serving.adapters:
        report("comparing streams without an adapter beside those that have one")
        check_adapters([checkpoint], [no_adapter(spec.engines)], folder, spec, utterances)
    return parity


def _write_engines(
    folder: Path, stages: tuple[Stage, ...], spec: StreamingSpec, report: Report
) -> None:
    parts = [stages] if spec.layout == "fused" else [(stage,) for stage in stages]
    rank = spec.serving.adapter_rank
    for part, engine in zip(parts, spec.engines, strict=True):
        version = folder / engine.name / "1"
        if spec.runtime == "torch":
            report(f"{engine.role} to a program of torch.export")
            export_torch(part, engine, version, spec.precision)
            if engine.adapters:
                report(f"{engine.role} with adapters to a program of torch.export")
                export_torch(part, engine, version / ADAPTED, spec.precision, rank)
            continue
        report(f"{engine.role} to ONNX")
        path = version / "model.onnx"
        export_onnx(part, engine, path)
        if engine.adapters:
            report(f"{engine.role} with adapters to ONNX")
            export_onnx(part, engine, version / ADAPTED / "model.onnx", rank)
        if engine.role == "encoder" and spec.precision == "int8":
            report("quantizing the encoder")
            quantize_encoder(path)
