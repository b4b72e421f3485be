"""Tensor names, shapes and dtypes of the ensemble `asr_streaming`, in one place.

`export` writes the ONNX files and the Triton configs from a `StreamingSpec`; a test holds the
committed configs, the ensemble and the ONNX graphs to it. The client reads what it needs from the
ensemble's `parameters`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from export.audio import (
    FRAME_MS,
    FRAME_SAMPLES,
    LEAD_SAMPLES,
    SAMPLE_RATE_HZ,
    SUBSAMPLING,
    frames_per_chunk,
)
from export.options import Serving
from export.spec import CONTRACT_VERSION, StageSpec, TensorSpec
from export.stages.layout import CONTEXT_TOKENS, StateLayout

ENSEMBLE = "asr_streaming"
DETOKENIZER = "detokenizer"
RECOGNIZER = "recognizer"


@dataclass(frozen=True)
class StreamingSpec:
    """Everything that the configs of one exported streaming model say."""

    checkpoint: str
    chunk_ms: int
    num_mel_bins: int
    encoded_size: int
    max_tokens: int
    feature_state: StateLayout
    encoder_state: StateLayout
    decoder_state: StateLayout
    runtime: str
    precision: str
    layout: str = "stages"
    serving: Serving = field(default_factory=Serving)
    name: str = ""
    """Of this recognizer among others in one repository; a prefix of its models' names."""

    @property
    def frames(self) -> int:
        """T, encoder frames per chunk."""
        return frames_per_chunk(self.chunk_ms)

    @property
    def chunk_samples(self) -> int:
        """Audio samples per chunk."""
        return self.frames * FRAME_SAMPLES

    @property
    def audio(self) -> tuple[TensorSpec, ...]:
        """Inputs of the ensemble: samples in [-1, 1], and how many of them are valid."""
        return (
            TensorSpec("AUDIO", "FP32", (self.chunk_samples,)),
            TensorSpec("AUDIO_LENGTH", "INT32", (1,)),
        )

    @property
    def mel(self) -> tuple[TensorSpec, ...]:
        """Log-mel frames of the chunk."""
        return (
            TensorSpec("MEL", "FP32", (SUBSAMPLING * self.frames, self.num_mel_bins)),
            TensorSpec("MEL_LENGTH", "INT32", (1,)),
        )

    @property
    def encoded(self) -> tuple[TensorSpec, ...]:
        """Encoder frames of the chunk, projected for the joint network."""
        return (
            TensorSpec("ENCODED", "FP32", (self.frames, self.encoded_size)),
            TensorSpec("ENCODED_LENGTH", "INT32", (1,)),
        )

    @property
    def tokens(self) -> tuple[TensorSpec, ...]:
        """Tokens of the chunk, padded with -1; frames of 80 ms counted from the stream's start."""
        return (
            TensorSpec("TOKENS", "INT32", (self.max_tokens,)),
            TensorSpec("TOKEN_FRAMES", "INT32", (self.max_tokens,)),
            TensorSpec("TOKEN_LOGPROBS", "FP32", (self.max_tokens,)),
            TensorSpec("TOKEN_COUNT", "INT32", (1,)),
        )

    @property
    def previous_tokens(self) -> TensorSpec:
        """The tokens before this chunk, between decoder and detokenizer only."""
        return TensorSpec("PREVIOUS_TOKENS", "INT32", (CONTEXT_TOKENS,))

    @property
    def text(self) -> tuple[TensorSpec, ...]:
        """What the chunk adds to the transcript, and the characters of it that each token adds."""
        return (
            TensorSpec("TEXT", "BYTES", (1,)),
            TensorSpec("TOKEN_TEXT_LENGTHS", "INT32", (self.max_tokens,)),
        )

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages with an engine, in the order a chunk takes."""
        return (
            StageSpec(
                "feature_extractor", self.audio, self.mel, self.feature_state, prefix=self.name
            ),
            StageSpec("encoder", self.mel, self.encoded, self.encoder_state, prefix=self.name),
            StageSpec(
                "decoder",
                self.encoded,
                (*self.tokens, self.previous_tokens),
                self.decoder_state,
                prefix=self.name,
            ),
        )

    @property
    def recognizer(self) -> StageSpec:
        """The three stages as one model."""
        first, *_, last = self.stages
        return StageSpec(
            RECOGNIZER, first.inputs, last.outputs, members=self.stages, prefix=self.name
        )

    @property
    def engines(self) -> tuple[StageSpec, ...]:
        """The models with an engine in this layout, in the order a chunk takes."""
        return (self.recognizer,) if self.layout == "fused" else self.stages

    @property
    def models(self) -> list[str]:
        """Names of all models of this layout."""
        return [stage.name for stage in (*self.engines, self.detokenizer, self.ensemble)]

    @property
    def obsolete_models(self) -> list[str]:
        """Names of the models that only the other layout has."""
        return [s.name for s in (*self.stages, self.recognizer) if s.name not in self.models]

    @property
    def detokenizer(self) -> StageSpec:
        """Tokens to text; stateless."""
        tokens, _, _, count = self.tokens
        inputs = (tokens, count, self.previous_tokens)
        return StageSpec(DETOKENIZER, inputs, self.text, prefix=self.name)

    @property
    def ensemble(self) -> StageSpec:
        """What a client sees."""
        outputs = (*self.text, *self.tokens)
        return StageSpec(ENSEMBLE, self.audio, outputs, prefix=self.name)

    @property
    def client_parameters(self) -> dict[str, str]:
        """What a client learns from the server instead of being configured with it."""
        return {
            "contract_version": CONTRACT_VERSION,
            "checkpoint": self.checkpoint,
            "runtime": self.runtime,
            "precision": self.precision,
            "sample_rate_hz": str(SAMPLE_RATE_HZ),
            "chunk_ms": str(self.chunk_ms),
            "chunk_samples": str(self.chunk_samples),
            "lead_samples": str(LEAD_SAMPLES),
            "frame_ms": str(FRAME_MS),
            "max_streams": str(self.serving.max_streams),
            "sequence_idle_ms": str(self.serving.sequence_idle_ms),
        }

    @property
    def manifest(self) -> dict[str, Any]:
        """What the manifest says of the model's sizes."""
        return {
            "chunk_ms": self.chunk_ms,
            "layout": self.layout,
            "dims": {
                "frames_per_chunk": self.frames,
                "num_mel_bins": self.num_mel_bins,
                "encoded_size": self.encoded_size,
                "max_tokens": self.max_tokens,
                "state": {stage.name: asdict(stage.state) for stage in self.stages if stage.state},
            },
        }
