"""What the original says of whole utterances: `transformers`, one utterance at a time, unpadded.

Alone, because that is what a user of the original would hold a transcript against; padded batches
of the original say the same but for its bound on the length of a transcript.
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
    """Encoder frames that a streaming model looks ahead when it has the whole utterance."""
    return max(checkpoint.processor.supported_num_lookahead_tokens)


@torch.inference_mode()
def _ctc(checkpoint: Checkpoint, utterance: Samples) -> ReferenceResult:
    model = checkpoint.model
    features = _features(checkpoint, utterance)
    labels = model.generate(**features)[0].tolist()
    encoded = model.encoder(**features)
    valid = int(encoded.attention_mask.sum())
    runs = [(label, list(places)) for label, places in groupby(range(valid), labels.__getitem__)]
    heard = [(label, places[0]) for label, places in runs if label != model.config.pad_token_id]
    return ReferenceResult(
        mel=features["input_features"][0, : _mel_frames(utterance)].numpy(),
        encoded=encoded.last_hidden_state[0, :valid].numpy(),
        tokens=[label for label, _ in heard],
        token_frames=[frame for _, frame in heard],
    )


@torch.inference_mode()
def _transducer(checkpoint: Checkpoint, utterance: Samples) -> ReferenceResult:
    model = checkpoint.model
    features = _features(checkpoint, utterance)
    encoded = model.get_audio_features(**features, output_attention_mask=True)
    valid = int(encoded.attention_mask.sum())
    # The default bound counts the opening blank; a step for each symbol of each frame is enough.
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
