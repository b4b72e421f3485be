"""Define tensor names, shapes and dtypes of the ensemble `asr_streaming`, in one place.

The ONNX files and the Triton configs are written from a `StreamingSpec`; a test compares the
committed configs, the ensemble and the ONNX graphs with it. The client reads what it needs from the
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
from export.spec import (
    CONTRACT_VERSION,
    STREAMING,
    StageSpec,
    TensorSpec,
    adapter_sizes,
    in_one_model,
    obsolete,
    served_name,
)
from export.stages.layout import CONTEXT_TOKENS, AdapterLayout, StateLayout

DETOKENIZER = "detokenizer"
RECOGNIZER = "recognizer"


@dataclass(frozen=True)
class StreamingSpec:
    """Everything that the configs of one exported streaming model contain."""

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
    """Prefix of the models' names if a repository holds several recognizers."""
    checkpoint_sha256: str = ""
    encoder_adapter: AdapterLayout | None = None
    """None, like `decoder_adapter`, if the models take no adapters."""
    decoder_adapter: AdapterLayout | None = None

    @property
    def bundled(self) -> bool:
        """Return True if the bundled backend serves the engines."""
        return self.runtime != "tensorrt"

    @property
    def text_model(self) -> StageSpec:
        """Return the model that converts tokens to text."""
        return self.steps[-1]

    @property
    def frames(self) -> int:
        """Return T, the encoder frames per chunk."""
        return frames_per_chunk(self.chunk_ms)

    @property
    def chunk_samples(self) -> int:
        """Return the audio samples per chunk."""
        return self.frames * FRAME_SAMPLES

    @property
    def audio(self) -> tuple[TensorSpec, ...]:
        """Return the inputs of the ensemble: samples in [-1, 1] and the number of valid ones."""
        return (
            TensorSpec("AUDIO", "FP32", (self.chunk_samples,)),
            TensorSpec("AUDIO_LENGTH", "INT32", (1,)),
        )

    @property
    def mel(self) -> tuple[TensorSpec, ...]:
        """Return the log-mel frames of the chunk."""
        return (
            TensorSpec("MEL", "FP32", (SUBSAMPLING * self.frames, self.num_mel_bins)),
            TensorSpec("MEL_LENGTH", "INT32", (1,)),
        )

    @property
    def encoded(self) -> tuple[TensorSpec, ...]:
        """Return the encoder frames of the chunk, projected for the joint network."""
        return (
            TensorSpec("ENCODED", "FP32", (self.frames, self.encoded_size)),
            TensorSpec("ENCODED_LENGTH", "INT32", (1,)),
        )

    @property
    def tokens(self) -> tuple[TensorSpec, ...]:
        """Return the tokens of the chunk, padded with -1; frames count from the stream's start."""
        return (
            TensorSpec("TOKENS", "INT32", (self.max_tokens,)),
            TensorSpec("TOKEN_FRAMES", "INT32", (self.max_tokens,)),
            TensorSpec("TOKEN_LOGPROBS", "FP32", (self.max_tokens,)),
            TensorSpec("TOKEN_COUNT", "INT32", (1,)),
        )

    @property
    def previous_tokens(self) -> TensorSpec:
        """Return the tokens before this chunk, on which its text depends; not for clients."""
        return TensorSpec("PREVIOUS_TOKENS", "INT32", (CONTEXT_TOKENS,))

    @property
    def text(self) -> tuple[TensorSpec, ...]:
        """Return the text that the chunk adds, and the characters that each token adds."""
        return (
            TensorSpec("TEXT", "BYTES", (1,)),
            TensorSpec("TOKEN_TEXT_LENGTHS", "INT32", (self.max_tokens,)),
        )

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """Return the stages with an engine, in the order of processing."""
        return (
            StageSpec(
                "feature_extractor", self.audio, self.mel, self.feature_state, prefix=self.name
            ),
            StageSpec(
                "encoder",
                self.mel,
                self.encoded,
                self.encoder_state,
                prefix=self.name,
                adapter=self.encoder_adapter,
            ),
            StageSpec(
                "decoder",
                self.encoded,
                (*self.tokens, self.previous_tokens),
                self.decoder_state,
                prefix=self.name,
                adapter=self.decoder_adapter,
                text=self.text if self.bundled else (),
            ),
        )

    @property
    def recognizer(self) -> StageSpec:
        """Return the three stages as one model."""
        return in_one_model(RECOGNIZER, self.stages)

    @property
    def engines(self) -> tuple[StageSpec, ...]:
        """Return the models with an engine in this layout, in the order of processing."""
        return (self.recognizer,) if self.layout == "fused" else self.stages

    @property
    def models(self) -> list[str]:
        """Return the names of all models of this layout."""
        return [stage.name for stage in (*self.steps, self.ensemble)]

    @property
    def obsolete_models(self) -> list[str]:
        """Return the names of the models that only other layouts and runtimes have."""
        others = (served_name(self.name, role) for role in (RECOGNIZER, DETOKENIZER))
        return obsolete(self.stages, others, self.models)

    @property
    def steps(self) -> tuple[StageSpec, ...]:
        """Return the models that the ensemble consists of, in the order of processing."""
        return (*self.engines, *([self.detokenizer] if self.detokenizer else []))

    @property
    def detokenizer(self) -> StageSpec | None:
        """Return the stateless model that converts the tokens of Triton's TensorRT backend."""
        if self.bundled:
            return None
        tokens, _, _, count = self.tokens
        inputs = (tokens, count, self.previous_tokens)
        return StageSpec(DETOKENIZER, inputs, (), prefix=self.name, text=self.text)

    @property
    def ensemble(self) -> StageSpec:
        """Return the model that clients call."""
        outputs = (*self.text, *self.tokens)
        return StageSpec(STREAMING, self.audio, outputs, prefix=self.name)

    @property
    def client_parameters(self) -> dict[str, str]:
        """Return the parameters that a client reads from the server."""
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
        """Return the entries of the manifest about the sizes of the models."""
        adapters = adapter_sizes(self.engines)
        serving = {"adapters": self.serving.adapters, "adapter_rank": self.serving.adapter_rank}
        return {
            "chunk_ms": self.chunk_ms,
            "layout": self.layout,
            **(serving if adapters else {}),
            "dims": {
                "frames_per_chunk": self.frames,
                "num_mel_bins": self.num_mel_bins,
                "encoded_size": self.encoded_size,
                "max_tokens": self.max_tokens,
                "state": {stage.name: asdict(stage.state) for stage in self.stages if stage.state},
                **({"adapter": adapters} if adapters else {}),
            },
        }
