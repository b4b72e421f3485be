"""Transcribe utterances with the original in `transformers`, one at a time and unpadded.

Users of the original would compare with such transcripts. Padded batches of the original give the
same transcripts, apart from its limit on their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from export.audio import HOP_SAMPLES, SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint
from export.streaming.reference import ReferenceResult
from export.streaming.reference import transcribe as transcribe_streaming

Samples = NDArray[np.float32]


def transcribe(checkpoint: Checkpoint, utterances: Sequence[Samples]) -> list[ReferenceResult]:
    """Run the original over each utterance of samples [N], 16 kHz mono, N at least 320."""
    if checkpoint.streams:
        return transcribe_streaming(checkpoint, utterances, lookahead_of(checkpoint))
    one = _ctc if checkpoint.architecture == "ParakeetForCTC" else _transducer
    return [one(checkpoint, utterance) for utterance in utterances]


def lookahead_of(checkpoint: Checkpoint) -> int:
    """Return the largest lookahead of a streaming model in encoder frames."""
    return max(checkpoint.processor.supported_num_lookahead_tokens)


@torch.inference_mode()
def _ctc(checkpoint: Checkpoint, utterance: Samples) -> ReferenceResult:
    model = checkpoint.model
    features = _features(checkpoint, utterance)
    labels = model.generate(**features)[0].tolist()
    encoded = model.encoder(**features)
    valid = int(encoded.attention_mask.sum())
    runs = [(label, next(frames)) for label, frames in groupby(range(valid), labels.__getitem__)]
    tokens = [(label, frame) for label, frame in runs if label != model.config.pad_token_id]
    return ReferenceResult(
        mel=features["input_features"][0, : _mel_frames(utterance)].numpy(),
        encoded=encoded.last_hidden_state[0, :valid].numpy(),
        tokens=[label for label, _ in tokens],
        token_frames=[frame for _, frame in tokens],
    )


@torch.inference_mode()
def _transducer(checkpoint: Checkpoint, utterance: Samples) -> ReferenceResult:
    model = checkpoint.model
    features = _features(checkpoint, utterance)
    encoded = model.get_audio_features(**features, output_attention_mask=True)
    valid = int(encoded.attention_mask.sum())
    # The default limit counts the opening blank; one step per symbol and frame is enough.
    generated = model.generate(**features, max_length=valid * model.max_symbols_per_step + 1)
    frames = (generated.durations.cumsum(dim=1) - generated.durations)[0]
    tokens = generated.sequences[0]
    emitted = (tokens != model.config.blank_token_id) & (frames < valid)
    return ReferenceResult(
        mel=features["input_features"][0, : _mel_frames(utterance)].numpy(),
        encoded=encoded.pooler_output[0, :valid].numpy(),
        tokens=tokens[emitted].tolist(),
        token_frames=frames[emitted].tolist(),
    )


def _features(checkpoint: Checkpoint, utterance: Samples) -> dict[str, torch.Tensor]:
    features = checkpoint.processor.feature_extractor(
        [utterance], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
    )
    return {
        "input_features": features.input_features,
        "attention_mask": features.attention_mask,
    }


def _mel_frames(utterance: Samples) -> int:
    return len(utterance) // HOP_SAMPLES
