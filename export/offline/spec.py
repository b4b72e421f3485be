"""Define tensor names, shapes and dtypes of the ensemble `asr_offline`.

A dimension of -1 differs between utterances.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from export.audio import FRAME_MS, FRAME_SAMPLES, HOP_SAMPLES, SAMPLE_RATE_HZ
from export.options import OfflineServing
from export.spec import (
    CONTRACT_VERSION,
    OFFLINE,
    StageSpec,
    TensorSpec,
    adapter_sizes,
    in_one_model,
    obsolete,
    served_name,
)
from export.stages.layout import AdapterLayout
from export.stages.offline.encoder import encoder_frames

DETOKENIZER = "detokenizer_offline"
RECOGNIZER = "recognizer_offline"
BUCKETS_MS = (2000, 4000, 8000, 15000, 30000)
"""Lengths to which clients pad audio; the last is the longest utterance in one piece."""
RUN_FRAMES = (16, 24, 32, 48, 64, 80, 96, 120, 144, 168, 192, 232, 280, 328, 376)
"""Lengths in encoder frames to which a fused model pads its runs, up to the longest bucket."""


@dataclass(frozen=True)
class OfflineSpec:
    """Everything that the configs of one exported offline model contain."""

    checkpoint: str
    architecture: str
    causal: bool
    """True if the encoder's convolutions are causal, as in a streaming model."""
    num_mel_bins: int
    encoded_size: int
    ctc_blank: int | None
    """The blank label of CTC; `None` for a transducer, whose decoder drops its blanks."""
    runtime: str
    precision: str
    buckets_ms: tuple[int, ...] = BUCKETS_MS
    serving: OfflineServing = field(default_factory=OfflineServing)
    name: str = ""
    """Prefix of the models' names if a repository holds several recognizers."""
    checkpoint_sha256: str = ""
    encoder_adapter: AdapterLayout | None = None
    """None, like `decoder_adapter`, if the stage takes no adapters."""
    decoder_adapter: AdapterLayout | None = None

    @property
    def buckets_samples(self) -> tuple[int, ...]:
        """Return the audio samples of each bucket."""
        return tuple(ms * SAMPLE_RATE_HZ // 1000 for ms in self.buckets_ms)

    @property
    def fused(self) -> bool:
        """Return True if all stages are one model, so that frames never leave the GPU."""
        return self.runtime == "torch"

    @property
    def run_samples(self) -> tuple[int, ...]:
        """Return the lengths in audio samples to which a fused model pads its runs.

        In encoder frames they are multiples of eight, for which matrix products are fast.
        """
        before = int(self.causal)
        return tuple((frames - before) * FRAME_SAMPLES for frames in RUN_FRAMES)

    @property
    def max_mel_frames(self) -> int:
        """Return the mel frames of the longest bucket, or of the longest run."""
        longest = self.run_samples[-1] if self.fused else 0
        return max(self.buckets_samples[-1], longest) // HOP_SAMPLES

    def lengths(self, tensors: tuple[TensorSpec, ...]) -> tuple[int, ...]:
        """Return the size of the time axis of a stage's inputs or outputs in each bucket."""
        if tensors == self.audio:
            return self.buckets_samples
        mel_frames = tuple(samples // HOP_SAMPLES for samples in self.buckets_samples)
        if tensors == self.mel:
            return mel_frames
        return tuple(encoder_frames(frames, self.causal) for frames in mel_frames)

    def is_loop(self, stage: StageSpec) -> bool:
        """Return True if the stage loops over its frames, as a transducer's decoder does."""
        return stage.role == "decoder_offline" and self.ctc_blank is None

    @property
    def audio(self) -> tuple[TensorSpec, ...]:
        """Return the inputs of the ensemble: samples in [-1, 1] and the number of valid ones."""
        return (TensorSpec("AUDIO", "FP32", (-1,)), TensorSpec("AUDIO_LENGTH", "INT32", (1,)))

    @property
    def mel(self) -> tuple[TensorSpec, ...]:
        """Return the log-mel frames of the utterance."""
        return (
            TensorSpec("MEL", "FP32", (-1, self.num_mel_bins)),
            TensorSpec("MEL_LENGTH", "INT32", (1,)),
        )

    @property
    def encoded(self) -> tuple[TensorSpec, ...]:
        """Return the encoder frames, projected for the joint network if there is one."""
        return (
            TensorSpec("ENCODED", "FP32", (-1, self.encoded_size)),
            TensorSpec("ENCODED_LENGTH", "INT32", (1,)),
        )

    @property
    def tokens(self) -> tuple[TensorSpec, ...]:
        """Return the tokens, padded with -1, and the encoder frame that emitted each."""
        return (
            TensorSpec("TOKENS", "INT32", (-1,)),
            TensorSpec("TOKEN_FRAMES", "INT32", (-1,)),
            TensorSpec("TOKEN_LOGPROBS", "FP32", (-1,)),
            TensorSpec("TOKEN_COUNT", "INT32", (1,)),
        )

    @property
    def labels(self) -> tuple[TensorSpec, ...]:
        """Return the best label of every frame, from which the tokens of CTC are computed."""
        return (
            TensorSpec("FRAME_TOKENS", "INT32", (-1,)),
            TensorSpec("FRAME_LOGPROBS", "FP32", (-1,)),
        )

    @property
    def computed(self) -> tuple[TensorSpec, ...]:
        """Return the tensors that the backend computes from the outputs of the decoder."""
        return self.text if self.ctc_blank is None else (*self.text, *self.tokens)

    @property
    def text(self) -> tuple[TensorSpec, ...]:
        """Return the transcript, and the characters that each token adds."""
        return (TensorSpec("TEXT", "BYTES", (1,)), TensorSpec("TOKEN_TEXT_LENGTHS", "INT32", (-1,)))

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """Return the stages with an engine, in the order of processing."""
        decoded = self.tokens if self.ctc_blank is None else self.labels
        return (
            StageSpec("feature_extractor_offline", self.audio, self.mel, prefix=self.name),
            StageSpec(
                "encoder_offline",
                self.mel,
                self.encoded,
                prefix=self.name,
                adapter=self.encoder_adapter,
            ),
            StageSpec(
                "decoder_offline",
                self.encoded,
                decoded,
                prefix=self.name,
                adapter=self.decoder_adapter,
                text=() if self.ends_in_plan else self.computed,
            ),
        )

    @property
    def recognizer(self) -> StageSpec:
        """Return the three stages as one model."""
        return in_one_model(RECOGNIZER, self.stages)

    @property
    def engines(self) -> tuple[StageSpec, ...]:
        """Return the models with an engine, in the order of processing."""
        return (self.recognizer,) if self.fused else self.stages

    @property
    def steps(self) -> tuple[StageSpec, ...]:
        """Return the models that the ensemble consists of, in the order of processing."""
        return (*self.engines, *([self.detokenizer] if self.detokenizer else []))

    @property
    def text_model(self) -> StageSpec:
        """Return the model that converts tokens to text."""
        return self.steps[-1]

    @property
    def ends_in_plan(self) -> bool:
        """Return True if the last engine is a plan; the TensorRT backend computes no text."""
        return self.runtime == "tensorrt" and self.ctc_blank is not None

    @property
    def detokenizer(self) -> StageSpec | None:
        """Return the model that converts the labels of a plan to tokens and text."""
        if not self.ends_in_plan:
            return None
        return StageSpec(DETOKENIZER, self.labels, (), prefix=self.name, text=self.computed)

    @property
    def ensemble(self) -> StageSpec:
        """Return the model that clients call."""
        outputs = (*self.text, *self.tokens)
        return StageSpec(OFFLINE, self.audio, outputs, prefix=self.name)

    @property
    def models(self) -> list[str]:
        """Return the names of all models."""
        return [stage.name for stage in (*self.steps, self.ensemble)]

    @property
    def obsolete_models(self) -> list[str]:
        """Return the names of the models that only other runtimes have."""
        others = (served_name(self.name, role) for role in (RECOGNIZER, DETOKENIZER))
        return obsolete(self.stages, others, self.models)

    @property
    def client_parameters(self) -> dict[str, str]:
        """Return the parameters that a client reads from the server."""
        return {
            "contract_version": CONTRACT_VERSION,
            "mode": "offline",
            "checkpoint": self.checkpoint,
            "architecture": self.architecture,
            "runtime": self.runtime,
            "precision": self.precision,
            "sample_rate_hz": str(SAMPLE_RATE_HZ),
            "frame_ms": str(FRAME_MS),
            "buckets_ms": ",".join(map(str, self.buckets_ms)),
        }

    @property
    def manifest(self) -> dict[str, Any]:
        """Return the entries of the manifest about the sizes of the models."""
        adapters = adapter_sizes(self.stages)
        serving = {"adapters": self.serving.adapters, "adapter_rank": self.serving.adapter_rank}
        return {
            "buckets_ms": list(self.buckets_ms),
            **(serving if adapters else {}),
            "dims": {
                "num_mel_bins": self.num_mel_bins,
                "encoded_size": self.encoded_size,
                **({"adapter": adapters} if adapters else {}),
            },
        }
