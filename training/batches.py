"""Draw utterances from the shards, and form batches.

Utterances are drawn with replacement, with a probability proportional to their length; the phase
sets the share of real ones. A draw of a few hundred is sorted by length and cut into batches with
about the same amount of audio and little padding, which are then shuffled. The result depends only
on the seed of the round.
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
"""Utterances with more words per second than this have truncated audio."""
MIN_COLOUR_SECONDS = 2.0
"""The colour of shorter utterances depends more on their vowels than on their microphone."""
DIGITS_SHARE = 0.04
"""Share of the digit corpus in real draws: it has many utterances and few words."""


@dataclass(frozen=True)
class Pool:
    """Utterances to draw from, by source, and sounds for their augmentation."""

    real: list[Utterance]
    digits: list[Utterance]
    synthetic: list[Utterance]
    around: Surroundings


def load_pool(features: Path) -> Pool:
    """Read the existing shards; synthetic ones may still be in progress."""
    real: list[Utterance] = []
    digits: list[Utterance] = []
    for index in sorted(features.glob("real-*.tsv")):
        (digits if "digits" in index.stem else real).extend(read_shard(index))
    synthetic = [u for index in sorted(features.glob("tts-*.tsv")) for u in read_shard(index)]
    noises = [u.frames.astype(np.float32) for u in read_shard(features / "noise.tsv")]
    around = Surroundings(noises, _colours(features))
    return Pool(usable(real), usable(digits), usable(synthetic), around)


@cache
def _colours(features: Path) -> list[Colour]:
    """Return the colours of the real recordings, which are complete before training begins."""
    return [
        colour_of(utterance.frames.astype(np.float32))
        for index in sorted(features.glob("real-*.tsv"))
        for utterance in read_shard(index)
        if utterance.seconds >= MIN_COLOUR_SECONDS
    ]


def usable(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Return the utterances that are long enough and whose words fit into their time."""
    return [
        u
        for u in utterances
        if u.seconds >= MIN_SECONDS and len(u.text.split()) <= MAX_WORD_RATE_HZ * u.seconds
    ]


def draw_round(pool: Pool, phase: Phase, seed: int) -> list[list[Utterance]]:
    """Draw a few hundred utterances as batches of similar length, in random order."""
    rng = random.Random(seed)
    real_count = sum(rng.random() < phase.real_share for _ in range(UTTERANCES_PER_ROUND))
    digits_count = round(DIGITS_SHARE * real_count) if pool.digits else 0
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
    """Draw with replacement, weighted by length; return none from an empty list."""
    if not utterances:
        return []
    return rng.choices(
        utterances, cum_weights=list(accumulate(u.seconds for u in utterances)), k=count
    )


def _shorter(utterances: Sequence[Utterance], max_seconds: float) -> list[Utterance]:
    return [u for u in utterances if u.seconds <= max_seconds]


def _cut(utterances: Sequence[Utterance], batch_seconds: float) -> Iterator[list[Utterance]]:
    """Cut into runs whose padded length is below the limit, of at least one utterance."""
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
    """Pad utterances to one batch, augmented if requested."""
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
