"""From shards to batches: which utterances, in what mixture, how many at a time.

Utterances are drawn with replacement, each in proportion to its length, real ones with the
probability that the phase says. A draw
of a few hundred is sorted by length and cut into batches of about equal audio, so that little of a
batch is padding; the batches are then shuffled. All of it follows from the seed that the round is
given.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.augment import Augmentation, Colour, Surroundings, colour_of
from training.features import Utterance, read_shard
from training.model import Batch
from training.schedule import Phase

UTTERANCES_PER_ROUND = 768
MIN_SECONDS = 0.4
MAX_WORD_RATE_HZ = 6.5
"""Faster transcripts belong to clipped audio."""
MIN_COLOUR_SECONDS = 2.0
"""Shorter utterances tell more of their vowels than of their microphone."""
DIGITS_SHARE = 0.04
"""Of the real draws: the digit corpus is large in utterances, small in what it teaches."""


@dataclass(frozen=True)
class Pool:
    """Utterances to draw from, by source; what to vary them with."""

    real: list[Utterance]
    digits: list[Utterance]
    synthetic: list[Utterance]
    around: Surroundings


def load_pool(features: Path) -> Pool:
    """Reads whatever shards are there now; synthetic ones may still be in the making."""
    real: list[Utterance] = []
    digits: list[Utterance] = []
    for index in sorted(features.glob("real-*.tsv")):
        (digits if "digits" in index.stem else real).extend(read_shard(index))
    synthetic = [u for index in sorted(features.glob("tts-*.tsv")) for u in read_shard(index)]
    noises = [u.frames.astype(np.float32) for u in read_shard(features / "noise.tsv")]
    around = Surroundings(noises, _colours(features))
    return Pool(_usable(real), _usable(digits), _usable(synthetic), around)


@cache
def _colours(features: Path) -> list[Colour]:
    """Colours of the real recordings, which are all there before training begins."""
    return [
        colour_of(utterance.frames.astype(np.float32))
        for index in sorted(features.glob("real-*.tsv"))
        for utterance in read_shard(index)
        if utterance.seconds >= MIN_COLOUR_SECONDS
    ]


def _usable(utterances: Sequence[Utterance]) -> list[Utterance]:
    return [
        u
        for u in utterances
        if u.seconds >= MIN_SECONDS and len(u.text.split()) <= MAX_WORD_RATE_HZ * u.seconds
    ]


def draw_round(pool: Pool, phase: Phase, seed: int) -> list[list[Utterance]]:
    """A few hundred utterances as batches of similar length, in random order."""
    rng = random.Random(seed)
    real_count = sum(rng.random() < phase.real_share for _ in range(UTTERANCES_PER_ROUND))
    digits_count = round(DIGITS_SHARE * real_count)
    drawn: list[Utterance] = []
    for utterances, count in (
        (pool.real, real_count - digits_count),
        (pool.digits, digits_count),
        (pool.synthetic, UTTERANCES_PER_ROUND - real_count),
    ):
        drawn += _draw(_shorter(utterances, phase.max_seconds), count, rng)
    drawn.sort(key=lambda utterance: len(utterance.frames))
    batches = list(_cut(drawn, phase.batch_seconds))
    rng.shuffle(batches)
    return batches


def _draw(utterances: Sequence[Utterance], count: int, rng: random.Random) -> list[Utterance]:
    """So many, with replacement, each with a chance in proportion to its length; none of none."""
    if not utterances:
        return []
    return rng.choices(
        utterances, cum_weights=list(accumulate(u.seconds for u in utterances)), k=count
    )


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
