"""Transcribe whole utterances with the original in `transformers`, as reference for parity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint

_BATCH = 16


@dataclass(frozen=True)
class ReferenceResult:
    """Output of the reference model for one utterance."""

    mel: NDArray[np.float32]
    """[mel frames, n_mels], valid frames only."""
    encoded: NDArray[np.float32]
    """[encoder frames, D] after the projection for the joint network, valid frames only."""
    tokens: list[int]
    token_frames: list[int]


@dataclass(frozen=True)
class EncodedReference:
    """Frames of the reference model for one utterance, as in `ReferenceResult`."""

    mel: NDArray[np.float32]
    encoded: NDArray[np.float32]


@torch.inference_mode()
def encode(
    checkpoint: Checkpoint, utterances: Sequence[NDArray[np.float32]], lookahead: int
) -> list[EncodedReference]:
    """Run the encoder over whole utterances of samples [N], 16 kHz mono, one by one."""
    results: list[EncodedReference] = []
    for samples in utterances:
        features = checkpoint.processor.feature_extractor(
            [samples], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
        )
        mel_frames = int(features.attention_mask[0].sum())
        _allow_length(checkpoint.model, mel_frames)
        encoded = checkpoint.model.get_audio_features(
            input_features=features.input_features,
            attention_mask=features.attention_mask,
            num_lookahead_tokens=lookahead,
        )
        valid_frames = int(encoded.attention_mask[0].sum())
        results.append(
            EncodedReference(
                mel=features.input_features[0, :mel_frames].numpy(),
                encoded=encoded.pooler_output[0, :valid_frames].numpy(),
            )
        )
    return results


def transcribe(
    checkpoint: Checkpoint, utterances: Sequence[NDArray[np.float32]], lookahead: int
) -> list[ReferenceResult]:
    """Run `generate` over whole utterances of samples [N], 16 kHz mono; keep their order."""
    order = sorted(range(len(utterances)), key=lambda index: len(utterances[index]))
    results: dict[int, ReferenceResult] = {}
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        answers = _transcribe_batch(checkpoint, [utterances[i] for i in batch], lookahead)
        results.update(zip(batch, answers, strict=True))
    return [results[index] for index in range(len(utterances))]


def text_of(checkpoint: Checkpoint, tokens: Sequence[int]) -> str:
    """Return the text of a token sequence, as the reference's processor decodes it."""
    return checkpoint.processor.batch_decode([list(tokens)], skip_special_tokens=True)[0]


@torch.inference_mode()
def _transcribe_batch(
    checkpoint: Checkpoint, utterances: list[NDArray[np.float32]], lookahead: int
) -> list[ReferenceResult]:
    model = checkpoint.model
    features = checkpoint.processor.feature_extractor(
        list(utterances), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
    )
    inputs = {
        "input_features": features.input_features,
        "attention_mask": features.attention_mask,
        "num_lookahead_tokens": lookahead,
    }
    _allow_length(model, features.input_features.shape[1])
    encoded = model.get_audio_features(**inputs)
    encoder_frames = int(encoded.attention_mask.shape[1])
    # The default limit counts the opening blank but no closing ones, so it could end too early.
    longest = (model.max_symbols_per_step + 1) * encoder_frames + 1
    generated = model.generate(**inputs, max_length=longest)
    frames = generated.durations.cumsum(dim=1) - generated.durations
    results: list[ReferenceResult] = []
    for index in range(len(utterances)):
        mel_frames = int(features.attention_mask[index].sum())
        valid_frames = int(encoded.attention_mask[index].sum())
        emitted = generated.sequences[index] != model.config.blank_token_id
        emitted &= frames[index] < valid_frames
        results.append(
            ReferenceResult(
                mel=features.input_features[index, :mel_frames].numpy(),
                encoded=encoded.pooler_output[index, :valid_frames].numpy(),
                tokens=generated.sequences[index][emitted].tolist(),
                token_frames=frames[index][emitted].tolist(),
            )
        )
    return results


def _allow_length(model: object, mel_frames: int) -> None:
    """Raise the reference's limit on positions, which can be computed for any length."""
    encoding = model.encoder.encode_positions  # type: ignore[attr-defined]
    encoding.max_position_embeddings = max(encoding.max_position_embeddings, mel_frames)
