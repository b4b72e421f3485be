"""Transcribe with a checkpoint, greedily in one offline pass, and compute word error rates."""

from collections.abc import Sequence

import jiwer
import torch
from transformers import NemotronAsrStreamingForRNNT
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.batches import collate
from training.fast_encoder import encode, encoder_frame_counts
from training.features import Utterance
from training.model import Batch, joint_logits
from training.text import normalize, text_of

BATCH_SIZE = 16


def transcribe(
    model: NemotronAsrStreamingForRNNT,
    tokenizer: ParakeetTokenizer,
    utterances: Sequence[Utterance],
    lookahead: int,
) -> list[str]:
    """Return the texts of `model.generate`, in the given order."""
    texts = [""] * len(utterances)
    order = sorted(range(len(utterances)), key=lambda i: len(utterances[i].frames))
    for first in range(0, len(order), BATCH_SIZE):
        chosen = order[first : first + BATCH_SIZE]
        batch = collate([utterances[i] for i in chosen], tokenizer)
        for i, ids in zip(chosen, _generate(model, batch, lookahead), strict=True):
            texts[i] = text_of(tokenizer, ids)
    return texts


@torch.inference_mode()
def _generate(model: NemotronAsrStreamingForRNNT, batch: Batch, lookahead: int) -> list[list[int]]:
    mask = torch.arange(batch.mel.shape[1]) < batch.mel_counts[:, None]
    most_tokens = model.max_symbols_per_step * int(encoder_frame_counts(batch.mel_counts).max())
    output = model.generate(
        input_features=batch.mel,
        attention_mask=mask,
        num_lookahead_tokens=lookahead,
        max_new_tokens=most_tokens,
    )
    return output.sequences.tolist()


@torch.inference_mode()
def transcribe_by_ctc(
    model: NemotronAsrStreamingForRNNT,
    tokenizer: ParakeetTokenizer,
    utterances: Sequence[Utterance],
    lookahead: int,
) -> list[str]:
    """Return texts by CTC over the joint network, which shows the encoder without the predictor."""
    texts: list[str] = []
    for utterance in utterances:
        batch = collate([utterance], tokenizer)
        encoded, _ = encode(model, batch.mel, batch.mel_counts, lookahead)
        best = joint_logits(model, encoded)[0].argmax(-1).unique_consecutive()
        texts.append(text_of(tokenizer, best.tolist()))
    return texts


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the errors per reference word; both sides must be normalized."""
    return jiwer.wer(list(map(normalize, references)), list(map(normalize, hypotheses)))
