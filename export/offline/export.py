"""Export an offline model: stages, ONNX or torch files, configs, comparison, manifest."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint
from export.errors import UnsupportedCheckpoint
from export.formats.offline_onnx_file import export_adapted_onnx, export_offline_onnx
from export.formats.onnx_file import quantize_encoder
from export.formats.onnx_stage import open_stateless
from export.formats.packed_adapters import no_adapter
from export.formats.utterance_program import export_utterance_program, open_utterance_program
from export.install import Replacement, write_configs, write_tokenizer
from export.manifest import write_manifest
from export.offline.adapter_parity import check_adapters
from export.offline.config import config_files
from export.offline.half import range_of, rescaled
from export.offline.parity import check_offline_parity
from export.offline.reference import lookahead_of
from export.offline.spec import OfflineSpec
from export.options import ExportOptions, Report
from export.parity import Parity
from export.precision.ranges import half_facts
from export.recordings import load_recordings
from export.spec import ADAPTED
from export.stages.offline.decoder import CtcDecoder, TransducerDecoder
from export.stages.offline.encoder import Causal, OfflineEncoder
from export.stages.offline.feature_extractor import OfflineFeatureExtractor
from export.stages.offline.half import Stages, half_stages


def build_stages(checkpoint: Checkpoint, spec: OfflineSpec) -> Stages:
    """Return feature extractor, encoder and decoder for utterances up to the longest bucket."""
    _require_durations(checkpoint)
    features = checkpoint.processor.feature_extractor
    model = checkpoint.model
    return (
        OfflineFeatureExtractor(features.mel_filters, features.preemphasis, not checkpoint.streams),
        OfflineEncoder(model, _causal(checkpoint), spec.max_mel_frames),
        TransducerDecoder(model) if spec.ctc_blank is None else CtcDecoder(model),
    )


def _require_durations(checkpoint: Checkpoint) -> None:
    durations = list(getattr(checkpoint.model.config, "durations", []))
    if durations != list(range(len(durations))):
        raise UnsupportedCheckpoint(
            f"{checkpoint.name} predicts durations of {durations} frames; transformers uses their "
            f"indices as values, so only {list(range(len(durations)))} is supported"
        )


def _causal(checkpoint: Checkpoint) -> Causal | None:
    """Return the chunks of a streaming model with its largest lookahead, as delay is irrelevant."""
    if not checkpoint.streams:
        return None
    chunk_frames = lookahead_of(checkpoint) + 1
    past_frames = checkpoint.model.config.encoder_config.sliding_window - 1
    return Causal(chunk_frames, past_frames // chunk_frames)


def spec_of(checkpoint: Checkpoint, options: ExportOptions) -> OfflineSpec:
    """Return the tensors and settings of the models that the export writes."""
    config = checkpoint.model.config
    ctc = checkpoint.architecture == "ParakeetForCTC"
    encoder = config.encoder_config
    return OfflineSpec(
        checkpoint=checkpoint.name,
        architecture=checkpoint.architecture,
        causal=checkpoint.streams,
        num_mel_bins=encoder.num_mel_bins,
        encoded_size=encoder.hidden_size if ctc else config.decoder_hidden_size,
        ctc_blank=config.pad_token_id if ctc else None,
        runtime=options.runtime,
        precision=options.precision,
        serving=options.offline_serving,
        name=options.name,
        checkpoint_sha256=checkpoint.sha256,
    )


def with_adapters(spec: OfflineSpec, stages: Stages) -> OfflineSpec:
    """Return `spec` with the layouts of the adapters that the stages take, if it asks for any."""
    rank = spec.serving.adapter_rank if spec.serving.adapters else 0
    _, encoder, decoder = (stage.adapter_plan(rank) for stage in stages)
    return replace(
        spec,
        encoder_adapter=encoder and encoder.layout,
        decoder_adapter=decoder and decoder.layout,
    )


def export_offline(
    checkpoint: Checkpoint, options: ExportOptions, new: Replacement, report: Report
) -> Parity | None:
    """Build the offline models of `checkpoint`, for ONNX Runtime or torch, to be installed.

    Args:
        new: collects the models; other models of its repository stay as they are.
        report: called with the name of each step as it begins.

    Returns:
        The comparison with `transformers`; None if `options` ask for none.

    Raises:
        UnsupportedCheckpoint: the stages do not support the checkpoint.
        ParityFailed: half precision overflows, or the result differs from the original.
    """
    began = time.monotonic()
    spec = spec_of(checkpoint, options)
    stages = build_stages(checkpoint, spec)
    facts: dict[str, Any] = {}
    if spec.fused and spec.precision != "fp32":
        stages, facts = _half(stages, spec, options, report)
    spec = with_adapters(spec, stages)
    folder = new.add(spec.models, spec.obsolete_models)
    _write_engines(folder, stages, spec, report)
    write_configs(folder, config_files(spec))
    write_tokenizer(folder / spec.text_model.name, checkpoint)
    parity = _compare(checkpoint, folder, spec, report) if options.compare else None
    write_manifest(folder, checkpoint, spec, parity, time.monotonic() - began, facts)
    return parity


def _half(
    stages: Stages, spec: OfflineSpec, options: ExportOptions, report: Report
) -> tuple[Stages, dict[str, Any]]:
    """Return the stages in half precision, and entries of the manifest about the range of values.

    Without a comparison nothing is measured, and no layer is rescaled.
    """
    if not options.compare:
        return half_stages(stages, spec.precision), {}
    report("half precision on real speech")
    speech = [recording.samples for recording in load_recordings()]
    stages, factors = rescaled(stages, spec, speech)
    stages = half_stages(stages, spec.precision)
    return stages, half_facts(factors, range_of(stages, spec, speech))


def _compare(checkpoint: Checkpoint, folder: Path, spec: OfflineSpec, report: Report) -> Parity:
    report("comparing with transformers on real speech")
    utterances = [recording.samples for recording in load_recordings()]
    open_stage = open_utterance_program if spec.fused else open_stateless
    parity = check_offline_parity(checkpoint, folder, spec, utterances, open_stage)
    if spec.serving.adapters:
        report("comparing files without an adapter beside those that have one")
        check_adapters([checkpoint], [no_adapter(spec.stages)], folder, spec, utterances)
    return parity


def _write_engines(folder: Path, stages: Stages, spec: OfflineSpec, report: Report) -> None:
    if spec.fused:
        _write_programs(folder / spec.recognizer.name / "1", stages, spec, report)
        return
    report("offline stages to ONNX")
    export_offline_onnx(folder, stages, spec.stages, spec.max_mel_frames)
    if spec.serving.adapters:
        report("offline stages with adapters to ONNX")
        rank = spec.serving.adapter_rank
        export_adapted_onnx(folder, stages, spec.stages, spec.max_mel_frames, rank)
    if spec.precision == "int8":
        report("quantizing the encoder")
        quantize_encoder(folder / spec.stages[1].name / "1" / "model.onnx")


def _write_programs(folder: Path, stages: Stages, spec: OfflineSpec, report: Report) -> None:
    write = partial(
        export_utterance_program,
        stages,
        spec.recognizer,
        precision=spec.precision,
        max_mel_frames=spec.max_mel_frames,
    )
    report("recognizer to a program of torch.export")
    write(folder)
    if spec.serving.adapters:
        report("recognizer with adapters to a program of torch.export")
        write(folder / ADAPTED, adapter_rank=spec.serving.adapter_rank)
