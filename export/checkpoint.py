"""Load a checkpoint, from a local folder or a model hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from export.audio import FFT_SAMPLES, FRAME_MS, HOP_SAMPLES, SAMPLE_RATE_HZ, WINDOW_SAMPLES
from export.errors import UnsupportedCheckpoint, UnsupportedOption

STREAMING_ARCHITECTURES = {"nemotron_asr_streaming": "NemotronAsrStreamingForRNNT"}
OFFLINE_ARCHITECTURES = {
    "parakeet_ctc": "ParakeetForCTC",
    "parakeet_rnnt": "ParakeetForRNNT",
    "parakeet_tdt": "ParakeetForTDT",
}
SUPPORTED_ARCHITECTURES = STREAMING_ARCHITECTURES | OFFLINE_ARCHITECTURES


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint, in float32 and evaluation mode."""

    name: str
    """The folder's name or the hub id."""
    model: Any
    """One of `SUPPORTED_ARCHITECTURES` of `transformers`."""
    processor: Any
    """Processor of the model: feature extractor and tokenizer."""
    sha256: str
    """Hash of the weights as loaded: name, dtype and bytes of every tensor."""

    @property
    def parameters(self) -> int:
        """Return the number of weights."""
        return sum(weight.numel() for weight in self.model.parameters())

    @property
    def architecture(self) -> str:
        """Return the name of the model's class in `transformers`."""
        return type(self.model).__name__

    @property
    def streams(self) -> bool:
        """Return True if the model can recognize live streams as well as whole utterances."""
        return self.architecture in STREAMING_ARCHITECTURES.values()

    @property
    def supported_chunk_ms(self) -> list[int]:
        """Return the chunk lengths whose lookahead the model was trained with, shortest first."""
        lookaheads = self.processor.supported_num_lookahead_tokens
        return sorted((lookahead + 1) * FRAME_MS for lookahead in lookaheads)

    def require_chunk(self, chunk_ms: int) -> None:
        """Refuse a chunk length that the model was not trained for.

        Raises:
            UnsupportedOption: the message lists the supported lengths.
        """
        if not self.streams:
            raise UnsupportedOption(
                f"{self.name} is a {self.architecture}, which recognizes whole utterances only "
                "(--mode offline)"
            )
        if chunk_ms not in self.supported_chunk_ms:
            supported = ", ".join(map(str, self.supported_chunk_ms))
            raise UnsupportedOption(
                f"{self.name} does not support chunks of {chunk_ms} ms; it was trained for "
                f"{supported} ms (--chunk-ms)"
            )


def load_checkpoint(name_or_path: str) -> Checkpoint:
    """Load a checkpoint and check that the stages support it.

    Args:
        name_or_path: a local folder in `transformers` format, or a hub id.

    Raises:
        UnsupportedCheckpoint: it is missing or incomplete, its architecture is not supported, or
            its weights are not finite.
    """
    architecture = _require_architecture(name_or_path)
    import transformers

    transformers.logging.disable_progress_bar()

    try:
        # Not "eager": transformers 5.23 then passes the encoder an additive mask where it expects a
        # boolean one, and attends to exactly the wrong keys.
        loaded: Any = getattr(transformers, architecture).from_pretrained(
            name_or_path,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UnsupportedCheckpoint(f"{name_or_path} cannot be loaded: {error}") from error
    model, loading = loaded
    processor = _load_processor(name_or_path)
    _require_all_weights(name_or_path, loading)
    _require_finite_weights(name_or_path, model)
    _require_features(name_or_path, processor.feature_extractor)
    model.eval()
    path = Path(name_or_path)
    name = path.resolve().name if path.exists() else name_or_path
    return Checkpoint(name, model, processor, _hash(model))


def _load_processor(name_or_path: str) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(name_or_path)
    except Exception as error:  # `tokenizers` raises plain Exceptions
        reason = " ".join(str(error).split())
        raise UnsupportedCheckpoint(
            f"the tokenizer or the feature extractor of {name_or_path} cannot be loaded; expected "
            "tokenizer.json, tokenizer_config.json and processor_config.json as save_pretrained() "
            f"writes them: {type(error).__name__}: {reason}"
        ) from error


def _require_architecture(name_or_path: str) -> str:
    """Return the model's class from the config, so that no unsupported model is downloaded."""
    from transformers import PreTrainedConfig

    path = Path(name_or_path)
    if path.exists() and not (path / "config.json").is_file():
        raise UnsupportedCheckpoint(
            f"{name_or_path} holds no config.json; expected a folder written by save_pretrained()"
        )
    try:
        config, _ = PreTrainedConfig.get_config_dict(name_or_path)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise UnsupportedCheckpoint(
            f"{name_or_path} is neither a local checkpoint folder nor a reachable hub id: {error}"
        ) from error
    model_type = config.get("model_type", "none")
    if model_type not in SUPPORTED_ARCHITECTURES:
        supported = ", ".join(SUPPORTED_ARCHITECTURES.values())
        raise UnsupportedCheckpoint(
            f"{name_or_path} is of type {model_type!r}; supported architectures: {supported}"
        )
    return SUPPORTED_ARCHITECTURES[model_type]


def _require_all_weights(name: str, loading: Mapping[str, Any]) -> None:
    """Refuse missing weights: they would be random in the reference, too, and parity would hold."""
    lacking = sorted(map(str, (*loading["missing_keys"], *loading["mismatched_keys"])))
    if lacking:
        raise UnsupportedCheckpoint(
            f"{name} lacks {len(lacking)} weights that its architecture needs: "
            f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}"
        )


def _require_finite_weights(name: str, model: Any) -> None:
    for weight, values in model.state_dict().items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise UnsupportedCheckpoint(
                f"the weights of {name} are not finite: {weight} holds NaN or infinity; the "
                "checkpoint is damaged, or its training diverged"
            )


def _require_features(name: str, feature_extractor: Any) -> None:
    """Refuse a checkpoint with other audio settings than the streaming contract."""
    expected = {
        "sampling_rate": SAMPLE_RATE_HZ,
        "hop_length": HOP_SAMPLES,
        "win_length": WINDOW_SAMPLES,
        "n_fft": FFT_SAMPLES,
    }
    got = {field: getattr(feature_extractor, field) for field in expected}
    if got != expected:
        raise UnsupportedCheckpoint(f"{name} extracts features with {got}, supported: {expected}")


def _hash(model: Any) -> str:
    digest = hashlib.sha256()
    for key, weight in sorted(model.state_dict().items()):
        digest.update(f"{key} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()
