"""Augment log-mel frames, in a fraction of the time that augmenting samples would take.

Every function takes and returns float32 frames (frames, mel bins) of log power; none changes its
input. `augment` draws and combines them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.features import FRAMES_PER_SECOND, MEL_BINS, SAMPLE_RATE_HZ

LogMel = npt.NDArray[np.float32]

LOG_FLOOR = math.log(2**-24)
"""Value of digital silence in the extractor's output."""
NEPERS_PER_DB = math.log(10) / 10
TAIL_SHIFTS = (1, 2, 4, 8, 16, 32, 64)
"""Shifts in frames. Each adds a decayed copy of the sum so far, which makes 128 decayed copies in
all."""


def change_tempo(frames: LogMel, factor: float) -> LogMel:
    """Change the tempo by `factor`, at the same pitch."""
    count = max(1, round(len(frames) / factor))
    return _resample(frames, np.linspace(0, len(frames) - 1, count, dtype=np.float32))


def shift_formants(frames: LogMel, factor: float) -> LogMel:
    """Move the envelope up the mel axis (`factor` > 1), as a shorter vocal tract does."""
    bins = np.minimum(np.arange(MEL_BINS, dtype=np.float32) / factor, MEL_BINS - 1)
    return np.ascontiguousarray(_resample(np.ascontiguousarray(frames.T), bins).T)


def _resample(rows: LogMel, positions: npt.NDArray[np.float32]) -> LogMel:
    """Return the rows at fractional positions, linearly interpolated."""
    below = positions.astype(np.int64)
    above = np.minimum(below + 1, len(rows) - 1)
    share = (positions - below).astype(np.float32)[:, None]
    return (rows[below] * (1 - share) + rows[above] * share).astype(np.float32)


def change_level(frames: LogMel, gain_db: float) -> LogMel:
    """Change the level by `gain_db`; digital silence stays silence."""
    return np.maximum(frames + np.float32(gain_db * NEPERS_PER_DB), np.float32(LOG_FLOOR))


def mix_noise(frames: LogMel, noise: LogMel, snr_db: float) -> LogMel:
    """Add noise, repeated to the length of the speech, at a ratio of mean powers of `snr_db`."""
    noise = np.resize(noise, frames.shape)
    ratio = np.exp(frames).mean() / max(float(np.exp(noise).mean()), 2**-24)
    gain = math.log(max(float(ratio), 1e-9)) - snr_db * NEPERS_PER_DB
    return np.logaddexp(frames, noise + np.float32(gain))


def reverberate(frames: LogMel, decay_s: float, direct_db: float) -> LogMel:
    """Add the reverberation of a room as power, because its phases are practically random.

    Args:
        frames: Log-mel frames of speech close to the microphone.
        decay_s: Time in which the reverberation falls by 60 dB, in the lowest mel bin. In the
            highest it is half as long, because walls and air absorb high frequencies.
        direct_db: Power of the direct sound, relative to that of the reverberation.
    """
    decays_s = np.linspace(decay_s, decay_s / 2, MEL_BINS, dtype=np.float32)
    kept = np.exp(-math.log(1e6) / (decays_s * FRAMES_PER_SECOND))
    direct = np.exp(frames)
    tail = np.zeros_like(direct)
    tail[1:] = (1 - kept) * np.float32(10 ** (-direct_db / 10)) * direct[:-1]
    for shift in TAIL_SHIFTS:
        tail[shift:] += kept**shift * tail[:-shift]
    return np.log(direct + tail)


def limit_band(frames: LogMel, low_hz: float, high_hz: float, floor: float) -> LogMel:
    """Set bins outside the band to `floor` (log power), as a telephone line or codec does."""
    low, high = mel_bin(low_hz), mel_bin(high_hz)
    limited = frames.copy()
    np.minimum(limited[:, :low], floor, out=limited[:, :low])
    np.minimum(limited[:, high:], floor, out=limited[:, high:])
    return limited


class Colour(NamedTuple):
    """Mean and deviation of each mel bin, due to microphone, room and voice; each (mel bins,)."""

    mean: LogMel
    deviation: LogMel


def colour_of(frames: LogMel) -> Colour:
    """Return mean and deviation of each mel bin over the utterance."""
    return Colour(frames.mean(axis=0), frames.std(axis=0))


def match_colour(frames: LogMel, colour: Colour, share: float) -> LogMel:
    """Move the colour of the utterance to another's, completely if `share` is 1.

    This is adaptive instance normalization (Huang and Belongie 2017) with mel bins as channels.
    """
    own = colour_of(frames)
    mean = own.mean + share * (colour.mean - own.mean)
    ratio = np.clip(colour.deviation / np.maximum(own.deviation, 0.1), 0.5, 2.0) ** share
    moved = (frames - own.mean) * ratio + mean
    return np.maximum(moved, LOG_FLOOR).astype(np.float32)


def mel_bin(frequency_hz: float) -> int:
    """Return the first mel bin (slaney scale) whose centre is at or above the frequency."""
    return math.ceil(_mel(frequency_hz) / _mel(SAMPLE_RATE_HZ / 2) * (MEL_BINS + 1)) - 1


def _mel(frequency_hz: float) -> float:
    if frequency_hz < 1000:
        return frequency_hz * 3 / 200
    return 15 + 27 * math.log(frequency_hz / 1000) / math.log(6.4)


def mask_blocks(frames: LogMel, rng: np.random.Generator) -> LogMel:
    """Replace up to two bands, and a gap per two seconds, by the mean (SpecAugment)."""
    masked = frames.copy()
    mean = frames.mean()
    for _ in range(int(rng.integers(0, 3))):
        width = int(rng.integers(1, 23))
        start = int(rng.integers(0, MEL_BINS - width))
        masked[:, start : start + width] = mean
    for _ in range(int(rng.integers(0, 2 + len(frames) // (2 * FRAMES_PER_SECOND)))):
        width = int(rng.integers(1, 1 + min(25, max(1, len(frames) // 8))))
        start = int(rng.integers(0, max(1, len(frames) - width)))
        masked[start : start + width] = mean
    return masked


@dataclass(frozen=True)
class Surroundings:
    """Noises to add to utterances, and colours of real recordings to give them."""

    noises: Sequence[LogMel] = ()
    colours: Sequence[Colour] = ()


def augment(frames: LogMel, around: Surroundings, rng: np.random.Generator) -> LogMel:
    """Return a random variant of an utterance."""
    frames = change_tempo(frames, rng.uniform(0.9, 1.15))
    if rng.random() < 0.5:
        frames = shift_formants(frames, rng.uniform(0.92, 1.08))
    if around.colours and rng.random() < 0.5:
        colour = around.colours[int(rng.integers(len(around.colours)))]
        frames = match_colour(frames, colour, rng.uniform(0.3, 1.0))
    if rng.random() < 0.25:
        frames = reverberate(frames, rng.uniform(0.2, 0.9), rng.uniform(-3, 12))
    frames = change_level(frames, rng.uniform(-12, 6))
    if around.noises and rng.random() < 0.3:
        noise = around.noises[int(rng.integers(len(around.noises)))]
        frames = mix_noise(frames, noise, rng.uniform(5, 30))
    if rng.random() < 0.2:
        floor = rng.uniform(LOG_FLOOR, LOG_FLOOR + 3)
        telephone = rng.random() < 0.25
        low_hz, high_hz = (300, 3400) if telephone else (0, rng.uniform(3800, 7500))
        frames = limit_band(frames, low_hz, high_hz, floor)
    return mask_blocks(frames, rng)


@dataclass(frozen=True)
class Augmentation:
    """Settings of `augment` for a batch, and the share of utterances to augment."""

    around: Surroundings
    share: float
    rng: np.random.Generator

    def apply(self, frames: LogMel) -> LogMel:
        """Return the frames, or a variant of them."""
        if self.rng.random() >= self.share:
            return frames
        return augment(frames, self.around, self.rng)
