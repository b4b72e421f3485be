"""From shards to batches: which utterances, in what mixture, how many at a time.

Utterances are drawn with replacement, real ones with the probability that the phase says. A draw
of a few hundred is sorted by length and cut into batches of about equal audio, so that little of a
batch is padding; the batches are then shuffled. All of it follows from the seed that the round is
given.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from export.demo.augment import Augmentation, LogMel
from export.demo.features import Utterance, read_shard
from export.demo.model import Batch
from export.demo.schedule import Phase

UTTERANCES_PER_ROUND = 768
MIN_SECONDS = 0.4
MAX_WORD_RATE_HZ = 6.5
"""Faster transcripts belong to clipped audio."""
DIGITS_SHARE = 0.04
"""Of the real draws: the digit corpus is large in utterances, small in what it teaches."""


@dataclass(frozen=True)
class Pool:
    """Utterances to draw from, by source; noise to mix in."""

    real: list[Utterance]
    digits: list[Utterance]
    synthetic: list[Utterance]
    noises: list[LogMel]


def load_pool(features: Path) -> Pool:
    """Reads whatever shards are there now; synthetic ones may still be in the making."""
    real: list[Utterance] = []
    digits: list[Utterance] = []
    for index in sorted(features.glob("real-*.tsv")):
        (digits if "digits" in index.stem else real).extend(read_shard(index))
    synthetic = [u for index in sorted(features.glob("tts-*.tsv")) for u in read_shard(index)]
    noises = [u.frames.astype(np.float32) for u in read_shard(features / "noise.tsv")]
    return Pool(_usable(real), _usable(digits), _usable(synthetic), noises)


def _usable(utterances: Sequence[Utterance]) -> list[Utterance]:
    return [
        u
        for u in utterances
        if u.seconds >= MIN_SECONDS and len(u.text.split()) <= MAX_WORD_RATE_HZ * u.seconds
    ]


def draw_round(pool: Pool, phase: Phase, seed: int) -> list[list[Utterance]]:
    """A few hundred utterances as batches of similar length, in random order."""
    rng = random.Random(seed)
    real, digits, synthetic = (
        _shorter(part, phase.max_seconds) for part in (pool.real, pool.digits, pool.synthetic)
    )
    drawn: list[Utterance] = []
    for _ in range(UTTERANCES_PER_ROUND):
        if synthetic and rng.random() >= phase.real_share:
            drawn.append(rng.choice(synthetic))
        else:
            drawn.append(rng.choice(digits if digits and rng.random() < DIGITS_SHARE else real))
    drawn.sort(key=lambda utterance: len(utterance.frames))
    batches = list(_cut(drawn, phase.batch_seconds))
    rng.shuffle(batches)
    return batches


def _shorter(utterances: Sequence[Utterance], max_seconds: float) -> list[Utterance]:
    return [u for u in utterances if u.seconds <= max_seconds]


def _cut(utterances: Sequence[Utterance], batch_seconds: float) -> Iterator[list[Utterance]]:
    """Consecutive runs whose padded length stays below the limit (one utterance at least)."""
    batch: list[Utterance] = []
    for utterance in utterances:
        if batch and (len(batch) + 1) * utterance.seconds > batch_seconds:
            yield batch
            batch = []
        batch.append(utterance)
    yield batch


def collate(
    utterances: Sequence[Utterance],
    tokenizer: ParakeetTokenizer,
    augmentation: Augmentation | None = None,
) -> Batch:
    """Pads utterances to one batch, augmented if asked for."""
    frames = [u.frames.astype(np.float32) for u in utterances]
    if augmentation is not None:
        frames = [augmentation.apply(mel) for mel in frames]
    labels = [torch.tensor(ids) for ids in tokenizer([u.text for u in utterances])["input_ids"]]
    return Batch(
        mel=pad_sequence([torch.from_numpy(mel) for mel in frames], batch_first=True),
        mel_counts=torch.tensor([len(mel) for mel in frames]),
        labels=pad_sequence(labels, batch_first=True),
        label_counts=torch.tensor([len(ids) for ids in labels]),
    )
