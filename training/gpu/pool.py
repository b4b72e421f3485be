"""Keep all utterances on the device, and draw batches from them.

The audio is in one buffer of 16-bit samples; shards are added while training runs. The composition
of a batch is decided on the CPU, so that every shape is known without waiting for the device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.batches import MAX_WORD_RATE_HZ, MIN_COLOUR_SECONDS, MIN_SECONDS
from training.features import HOP_SAMPLES, MEL_BINS, SAMPLE_RATE_HZ
from training.gpu.augment import Counts, Floats, colours_of, draw_variation, vary
from training.gpu.features import log_mel_batch
from training.gpu.sound import SoundShard, read_sound

CORPUS_FACTORS = {
    "librispeech_train_clean_251_readers": 3.0,
    "vctk": 1.5,
    "common_voice": 5.0,
    "an4": 4.0,
    "librispeech_train_clean": 0.8,
    "librispeech_dev_clean": 1.2,
}
"""Factor of each corpus in the draw, because many voices are worth more than many hours."""
SLOWEST_HOP, FASTEST_HOP = 136, 188
NORMAL_SPEED_SHARE = 0.3
MAX_SECONDS = 25.0
MAX_CELLS = 5_000_000
"""Largest number of cells of a batch's transducer lattice, including padding: about 20 GB with all
derived tensors."""
ROUND_UTTERANCES = 6000

Tokenize = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True)
class Mixture:
    """The composition of batches; both shares are probabilities per utterance."""

    real_share: float
    augmented_share: float
    batch_seconds: float


@dataclass(frozen=True)
class Batch:
    """A batch on the device: mel (B, F, bins), labels (B, U), counts there and on the CPU."""

    mel: Tensor
    mel_counts: Tensor
    labels: Tensor
    label_counts: Tensor
    encoder_frames: list[int]
    label_lengths: list[int]
    audio_seconds: float


@dataclass
class Pool:
    """Utterances by kind: real, synthetic, held out.

    Attributes:
        device: Device of the audio.
        capacity: Number of samples that fit.
        tokenize: Returns the labels of texts.
    """

    device: torch.device
    capacity: int
    tokenize: Tokenize
    texts: list[str] = field(default_factory=list)
    labels: list[npt.NDArray[np.int64]] = field(default_factory=list)
    held_out: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sound = torch.zeros(self.capacity, dtype=torch.int16, device=self.device)
        self.used = 0
        self.first = np.zeros(0, np.int64)
        self.counts = np.zeros(0, np.int64)
        self.real_weights = np.zeros(0)
        self.synthetic_weights = np.zeros(0)
        self.noise = (0, 0)
        self.colours = torch.zeros(0, 2, MEL_BINS, device=self.device)
        self._seen: set[str] = set()

    def add_shards(self, folder: Path, limit: int = 1000) -> int:
        """Add at most `limit` shards that have appeared; return their number."""
        found = [path for path in sorted(folder.glob("*.tsv")) if path.stem not in self._seen]
        # Recordings come first.
        found.sort(key=lambda path: path.stem.startswith("tts-"))
        for index in found[:limit]:
            self._seen.add(index.stem)
            self.add(index.stem, read_sound(index))
        return len(found[:limit])

    def add(self, name: str, shard: SoundShard) -> None:
        """Add one shard, whose name determines its kind."""
        size = len(shard.samples)
        if self.used + size > self.capacity:
            return
        begin = self.used
        self.sound[begin : begin + size] = torch.from_numpy(np.array(shard.samples))
        self.used += size
        if name == "noise":
            self.noise = (begin, size)
            return
        firsts = begin + np.cumsum(shard.counts) - shard.counts
        number = len(self.texts)
        self.first = np.concatenate([self.first, firsts])
        self.counts = np.concatenate([self.counts, shard.counts])
        self.texts += shard.texts
        self.labels += [np.array(ids, np.int64) for ids in self.tokenize(shard.texts)]
        weights = self._weights(name, shard)
        nothing = np.zeros(len(weights))
        kind, _, corpus = name.partition("-")
        self.real_weights = np.append(self.real_weights, weights if kind == "real" else nothing)
        self.synthetic_weights = np.append(
            self.synthetic_weights, weights if kind == "tts" else nothing
        )
        members = range(number, len(self.texts))
        if kind == "dev":
            self.held_out[corpus] = [i for i, w in zip(members, weights, strict=True) if w]
        if kind == "real":
            self._add_colours(np.array([i for i, w in zip(members, weights, strict=True) if w]))

    def _weights(self, name: str, shard: SoundShard) -> Floats:
        """Return each utterance's weight: seconds times the corpus' factor, or 0 if unusable."""
        kind, _, corpus = name.partition("-")
        seconds = shard.counts / SAMPLE_RATE_HZ
        words = np.array([len(text.split()) for text in shard.texts])
        usable = (seconds >= MIN_SECONDS) & (seconds <= MAX_SECONDS) & (words > 0)
        usable &= words <= MAX_WORD_RATE_HZ * seconds
        factor = CORPUS_FACTORS.get(corpus, 1.0) if kind == "real" else 1.0
        return np.where(usable, seconds * factor, 0.0)

    def _add_colours(self, members: Counts) -> None:
        chosen = members[self.counts[members] >= MIN_COLOUR_SECONDS * SAMPLE_RATE_HZ]
        for part in np.array_split(chosen, -(-len(chosen) // 64) or 1):
            if len(part):
                mel, counts = log_mel_batch(*self.samples(part))
                valid = torch.arange(mel.shape[1], device=self.device) < counts[:, None]
                found = colours_of(mel, valid[..., None])
                self.colours = torch.cat([self.colours, found])

    def samples(self, members: Counts) -> tuple[Tensor, Tensor]:
        """Return audio (B, S) of utterances, with arbitrary values past their counts (B,)."""
        first = torch.from_numpy(self.first[members]).to(self.device)
        counts = torch.from_numpy(self.counts[members]).to(self.device)
        return self._read(first, int(self.counts[members].max())), counts

    def _read(self, first: Tensor, length: int) -> Tensor:
        position = first[:, None] + torch.arange(length, device=self.device)
        return self.sound[position.clamp_(max=self.capacity - 1)].float() / 32768

    def hours(self) -> tuple[float, float]:
        """Return the hours of real and of synthetic speech to train on."""
        per_hour = 3600 * SAMPLE_RATE_HZ
        return (
            float(self.counts[self.real_weights > 0].sum() / per_hour),
            float(self.counts[self.synthetic_weights > 0].sum() / per_hour),
        )

    def draw(self, mixture: Mixture, rng: np.random.Generator) -> list[Counts]:
        """Draw a round of utterances as batches of similar length, in random order."""
        size = ROUND_UTTERANCES
        real = int(rng.binomial(size, mixture.real_share))
        if not self.synthetic_weights.any():
            real = size
        if not self.real_weights.any():
            real = 0
        drawn = np.concatenate(
            [
                _draw(self.real_weights, real, rng),
                _draw(self.synthetic_weights, size - real, rng),
            ]
        )
        drawn = drawn[np.argsort(self.counts[drawn], kind="stable")]
        batches = list(self._cut(drawn, mixture.batch_seconds))
        rng.shuffle(batches)  # type: ignore[arg-type]
        return batches

    def _cut(self, drawn: Counts, batch_seconds: float) -> Iterator[Counts]:
        """Cut before the padded audio or the padded lattice would exceed its limit."""
        begin, most_labels = 0, 0
        for i, member in enumerate(drawn):
            seconds = self.counts[member] / SAMPLE_RATE_HZ
            most_labels = max(most_labels, len(self.labels[member]))
            size = i + 1 - begin
            cells = size * 15 * seconds * (most_labels + 1)
            if size > 1 and (size * seconds > batch_seconds or cells > MAX_CELLS):
                yield drawn[begin:i]
                begin, most_labels = i, len(self.labels[member])
        yield drawn[begin:]

    def batch(self, members: Counts, augmented_share: float, rng: np.random.Generator) -> Batch:
        """Build one batch on the device; a share of 0 leaves the recordings unchanged."""
        counts = self.counts[members]
        hop = HOP_SAMPLES
        if rng.random() < augmented_share * (1 - NORMAL_SPEED_SHARE):
            hop = int(rng.integers(SLOWEST_HOP, FASTEST_HOP + 1))
        variation = draw_variation(counts // hop, augmented_share, rng)
        longest = int(variation.frame_counts.max())
        # Rounded up so that the number of encoder frames is a multiple of 8.
        frames = -(-(longest + 8) // 64) * 64 - 8
        sources, levels = self._draw_surroundings(members, augmented_share, rng)
        labels, label_counts = self._pad_labels(members)
        whole = self._to_device(np.concatenate([sources, label_counts[:, None]], axis=1))
        table = self._to_device(np.concatenate([levels, variation.table()], axis=1))
        sound = self._mix(whole, table, int(counts.max()))
        mel, mel_counts = log_mel_batch(sound, whole[:, 1], hop)
        colours = self.colours[whole[:, 3]] if len(self.colours) else _no_colours(mel)
        mel, mel_counts = vary(mel, mel_counts, table[:, 2:], frames, colours)
        encoder_frames = variation.frame_counts
        for _ in range(3):
            encoder_frames = encoder_frames // 2 + 1
        return Batch(
            mel,
            mel_counts,
            self._to_device(labels),
            whole[:, 4].contiguous(),
            encoder_frames.tolist(),
            label_counts.tolist(),
            float(variation.frame_counts.sum()) * HOP_SAMPLES / SAMPLE_RATE_HZ,
        )

    def _draw_surroundings(
        self, members: Counts, share: float, rng: np.random.Generator
    ) -> tuple[Counts, npt.NDArray[np.float32]]:
        """Draw the positions of audio, noise and colour of each utterance, and its levels in dB."""
        size, longest = len(members), int(self.counts[members].max())
        varied = rng.random(size) < share
        noise_first = self.noise[0] + rng.integers(0, max(1, self.noise[1] - longest), size)
        # Sometimes other speech replaces the noise.
        speech = rng.integers(0, max(1, self.used - longest), size)
        babble = (rng.random(size) < 0.25) | (self.noise[1] == 0)
        noisy = varied & (rng.random(size) < 0.45)
        ratio_db = np.where(babble, rng.uniform(10, 30, size), rng.uniform(3, 30, size))
        sources = np.stack(
            [
                self.first[members],
                self.counts[members],
                np.where(babble, speech, noise_first),
                rng.integers(0, max(1, len(self.colours)), size),
            ],
            axis=1,
        )
        level = np.where(varied, rng.uniform(-12, 6, size), 0.0)
        levels = np.stack([level, np.where(noisy, -ratio_db, -300.0)], axis=1)
        return sources, levels.astype(np.float32)

    def _mix(self, whole: Tensor, table: Tensor, length: int) -> Tensor:
        sound, counts = self._read(whole[:, 0], length), whole[:, 1]
        noise = self._read(whole[:, 2], length)
        valid = torch.arange(length, device=self.device) < counts[:, None]
        power = (sound.square() * valid).sum(1) / counts
        noise_power = noise.square().mean(1).clamp(min=1e-8)
        gain = (power / noise_power * 10 ** (table[:, 1] / 10)).sqrt()
        level = 10 ** (table[:, 0] / 20)
        return torch.addcmul(sound, noise, gain[:, None]) * level[:, None]

    def _pad_labels(self, members: Counts) -> tuple[Counts, Counts]:
        chosen = [self.labels[i] for i in members]
        counts = np.array([len(ids) for ids in chosen], np.int64)
        padded = np.zeros((len(chosen), max(1, int(counts.max()))), np.int64)
        for row, ids in zip(padded, chosen, strict=True):
            row[: len(ids)] = ids
        return padded, counts

    def _to_device(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _no_colours(mel: Tensor) -> Tensor:
    """Return a substitute if no colour is known: silence without contrast, for `match_colours`."""
    return torch.zeros(len(mel), 2, mel.shape[2], device=mel.device)


def _draw(weights: Floats, size: int, rng: np.random.Generator) -> Counts:
    """Draw with replacement by weight; return none if there are none."""
    if size == 0 or not weights.any():
        return np.zeros(0, np.int64)
    sums = np.cumsum(weights)
    return np.searchsorted(sums, rng.random(size) * sums[-1], side="right")
