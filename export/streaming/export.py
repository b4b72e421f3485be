"""Export a streaming checkpoint: stages, ONNX or torch files, configs, comparison, manifest."""

from __future__ import annotations

import time
from pathlib import Path

from export.checkpoint import Checkpoint
from export.formats.onnx_file import export_onnx, quantize_encoder
from export.formats.onnx_stage import OnnxStage
from export.formats.packed_adapters import no_adapter
from export.formats.pooled_stage import open_torch_stage
from export.formats.torch_file import export_torch
from export.install import Replacement, write_configs, write_tokenizer
from export.manifest import write_manifest
from export.options import ExportOptions, Report
from export.parity import Parity
from export.recordings import load_recordings
from export.spec import ADAPTED
from export.stages.decoder import Decoder
from export.stages.encoder import Encoder
from export.stages.feature_extractor import FeatureExtractor
from export.stages.half import Stages, half_stages
from export.stages.state import Stage
from export.streaming.adapter_parity import check_adapters
from export.streaming.config import config_files
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
        report: is called with the name of each step as it begins.

    Returns:
        The comparison with `transformers`; None if `options` ask for none.

    Raises:
        UnsupportedOption: the checkpoint was not trained for this chunk.
        ParityFailed: the result differs from the original.
    """
    began = time.monotonic()
    checkpoint.require_chunk(options.chunk_ms)
    stages = build_stages(checkpoint, options.frames)
    if options.runtime == "torch":
        stages = half_stages(stages, options.precision)
    spec = spec_of(checkpoint, stages, options)
    folder = new.add(spec.models, spec.obsolete_models)
    _write_engines(folder, stages, spec, report)
    write_configs(folder, config_files(spec))
    write_tokenizer(folder / spec.text_model.name, checkpoint)
    parity = None
    if options.compare:
        report("comparing with transformers on real speech")
        utterances = [recording.samples for recording in load_recordings()]
        open_stage = open_torch_stage if options.runtime == "torch" else OnnxStage
        parity = check_parity(checkpoint, folder, spec, utterances, open_stage)
        if options.serving.adapters:
            report("comparing streams without an adapter beside those that have one")
            check_adapters([checkpoint], [no_adapter(spec.engines)], folder, spec, utterances)
    write_manifest(folder, checkpoint, spec, parity, time.monotonic() - began)
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
