"""The road of a streaming checkpoint: stages, ONNX files, configs, gate, manifest, install."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from export.audio import frames_per_chunk
from export.checkpoint import Checkpoint
from export.install import replacing
from export.manifest import write_manifest
from export.onnx_file import export_onnx, quantize_encoder
from export.parity import Parity, check_parity
from export.recordings import load_recordings
from export.spec import DETOKENIZER, Serving, StreamingSpec
from export.stages.decoder import Decoder
from export.stages.encoder import Encoder
from export.stages.feature_extractor import FeatureExtractor
from export.stages.state import Stage
from export.triton_config import config_files

Report = Callable[[str], None]


def build_stages(checkpoint: Checkpoint, frames: int) -> tuple[Stage, Stage, Stage]:
    """Feature extractor, encoder and decoder for chunks of ``frames`` encoder frames."""
    features = checkpoint.processor.feature_extractor
    return (
        FeatureExtractor(features.mel_filters, features.preemphasis, frames),
        Encoder(checkpoint.model, frames),
        Decoder(checkpoint.model, frames),
    )


def spec_of(
    checkpoint: Checkpoint,
    stages: tuple[Stage, Stage, Stage],
    chunk_ms: int,
    runtime: str,
    precision: str,
    serving: Serving,
) -> StreamingSpec:
    """What the exported files will look like from outside."""
    config = checkpoint.model.config
    feature_extractor, encoder, decoder = stages
    return StreamingSpec(
        checkpoint=checkpoint.name,
        chunk_ms=chunk_ms,
        num_mel_bins=config.encoder_config.num_mel_bins,
        encoded_size=config.decoder_hidden_size,
        max_tokens=frames_per_chunk(chunk_ms) * config.max_symbols_per_step,
        feature_state=feature_extractor.layout,
        encoder_state=encoder.layout,
        decoder_state=decoder.layout,
        runtime=runtime,
        precision=precision,
        serving=serving,
    )


def export_streaming(
    checkpoint: Checkpoint,
    chunk_ms: int,
    runtime: str,
    precision: str,
    repository: Path,
    serving: Serving,
    report: Report,
) -> Parity:
    """Export ``checkpoint`` into ``repository``; see the module for the steps.

    Args:
        report: is told the name of each step as it begins.

    Raises:
        UnsupportedOption: the checkpoint was not trained for this chunk.
        ParityFailed: the result differs from the original; the repository is untouched.
    """
    began = time.monotonic()
    checkpoint.require_chunk(chunk_ms)
    stages = build_stages(checkpoint, frames_per_chunk(chunk_ms))
    spec = spec_of(checkpoint, stages, chunk_ms, runtime, precision, serving)
    models = [stage.name for stage in (*spec.stages, spec.detokenizer, spec.ensemble)]
    with replacing(repository, models) as folder:
        _write_engines(folder, stages, spec, report)
        write_configs(folder, spec)
        write_tokenizer(folder, checkpoint)
        report("comparing with transformers on real speech")
        utterances = [recording.samples for recording in load_recordings()]
        parity = check_parity(checkpoint, folder, spec, utterances)
        write_manifest(folder, checkpoint, spec, parity, time.monotonic() - began)
    return parity


def _write_engines(
    folder: Path, stages: tuple[Stage, ...], spec: StreamingSpec, report: Report
) -> None:
    for stage, stage_spec in zip(stages, spec.stages, strict=True):
        report(f"{stage_spec.name} to ONNX")
        export_onnx(stage, stage_spec, folder / stage_spec.name / "1" / "model.onnx")
    if spec.precision == "int8":
        report("quantizing the encoder")
        quantize_encoder(folder / "encoder" / "1" / "model.onnx")


def write_configs(folder: Path, spec: StreamingSpec) -> None:
    """Every config of the repository."""
    for name, text in config_files(spec).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    """The tokenizer as the `tokenizers` library reads it: no transformers where it is served."""
    version = folder / DETOKENIZER / "1"
    version.mkdir(parents=True, exist_ok=True)
    checkpoint.processor.tokenizer.backend_tokenizer.save(str(version / "tokenizer.json"))
