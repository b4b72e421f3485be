"""Augment a whole batch of log-mel frames on its device.

The variations are drawn on the CPU, per utterance (`draw_variation`), so the resulting shapes are
known without waiting for the device; `vary` applies them. The operations are those of `augment.py`
of the training on the CPU, with wider ranges, because here every recording is used a hundred times.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.augment import LOG_FLOOR, TAIL_SHIFTS, mel_bin
from training.features import FRAMES_PER_SECOND, MEL_BINS

MAX_BANDS = 3
MAX_GAPS = 12
BAND_BINS = 20
GAP_FRAMES = 30
TELEPHONE_HZ = (300.0, 3400.0)

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Variation:
    """The variation of each utterance of a batch, as arrays (B,) or (B, n) on the CPU.

    The attributes of bands and gaps are in mel bins and in frames; `colour_share` is 0 for
    utterances that keep their own colour, `reverberation` (its power relative to that of the direct
    sound) for those without a room, `band_low` and `band_high` are 0 and 80 for those that
    keep their band.
    """

    frame_counts: Counts
    formants: Floats
    colour_share: Floats
    decay_s: Floats
    reverberation: Floats
    band_low: Floats
    band_high: Floats
    band_floor: Floats
    mask_bands: Floats
    mask_gaps: Floats

    def table(self) -> npt.NDArray[np.float32]:
        """Return all numbers as one array (B, columns), for a single transfer."""
        columns = (
            self.frame_counts[:, None],
            self.formants[:, None],
            self.colour_share[:, None],
            self.decay_s[:, None],
            self.reverberation[:, None],
            self.band_low[:, None],
            self.band_high[:, None],
            self.band_floor[:, None],
            self.mask_bands.reshape(len(self.frame_counts), -1),
            self.mask_gaps.reshape(len(self.frame_counts), -1),
        )
        return np.concatenate(columns, axis=1).astype(np.float32)


def draw_variation(counts: Counts, share: float, rng: np.random.Generator) -> Variation:
    """Draw variations for utterances of `counts` frames; a share of 1 - `share` stays unchanged."""
    size = len(counts)
    varied = rng.random(size) < share

    def chosen(probability: float) -> npt.NDArray[np.bool_]:
        return varied & (rng.random(size) < probability)

    tempo = np.where(chosen(0.8), rng.uniform(0.92, 1.1, size), 1.0)
    frame_counts = np.maximum(1, np.rint(counts / tempo)).astype(np.int64)
    limited, telephone = chosen(0.25), rng.random(size) < 0.25
    low = np.where(telephone, mel_bin(TELEPHONE_HZ[0]), 0)
    high = np.where(
        telephone, mel_bin(TELEPHONE_HZ[1]), rng.integers(mel_bin(3800), mel_bin(7500), size)
    )
    widths = rng.integers(0, BAND_BINS + 1, (size, MAX_BANDS))
    widths *= varied[:, None] & (rng.random((size, MAX_BANDS)) < 0.7)
    starts = rng.integers(0, MEL_BINS - widths)
    most_gaps = 1 + frame_counts // (1.5 * FRAMES_PER_SECOND)
    gaps = varied[:, None] & (np.arange(MAX_GAPS) < (rng.random(size) * (most_gaps + 1))[:, None])
    longest = np.minimum(GAP_FRAMES, frame_counts // 8)
    lengths = np.floor(rng.random((size, MAX_GAPS)) * (longest + 1)[:, None]) * gaps
    begins = np.floor(rng.random((size, MAX_GAPS)) * (frame_counts[:, None] - lengths))
    return Variation(
        frame_counts,
        np.where(chosen(0.6), rng.uniform(0.9, 1.1, size), 1.0),
        np.where(chosen(0.5), rng.uniform(0.3, 1.0, size), 0.0),
        rng.uniform(0.2, 0.9, size),
        np.where(chosen(0.3), 10 ** rng.uniform(-1.2, 0.3, size), 0.0),
        np.where(limited, low, 0),
        np.where(limited, high, MEL_BINS),
        rng.uniform(LOG_FLOOR, LOG_FLOOR + 3, size),
        np.stack([starts, starts + widths], axis=-1).astype(np.float64),
        np.stack([begins, begins + lengths], axis=-1).astype(np.float64),
    )


def vary(
    mel: Tensor, counts: Tensor, table: Tensor, frames: int, colours: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the varied frames (B, frames, bins), zero past their counts, and the counts (B,).

    Args:
        mel: Log-mel frames (B, F, bins).
        counts: Valid frames (B,).
        table: `Variation.table` on the device.
        frames: Longest of the new counts.
        colours: Mean and deviation of a real recording for each utterance, (B, 2, bins).
    """
    new_counts = table[:, 0].long()
    position = torch.arange(frames, device=mel.device)
    valid = (position < new_counts[:, None])[..., None]
    mel = warp(mel, counts, new_counts, table[:, 1], frames)
    mel = match_colours(mel, valid, colours, table[:, 2])
    mel = reverberate(mel, table[:, 3], table[:, 4])
    mel = limit_bands(mel, table[:, 5], table[:, 6], table[:, 7])
    mel = mask_blocks(mel, valid, table[:, 8 : 8 + 2 * MAX_BANDS], table[:, 8 + 2 * MAX_BANDS :])
    return mel * valid, new_counts


def warp(mel: Tensor, counts: Tensor, new_counts: Tensor, formants: Tensor, frames: int) -> Tensor:
    """Stretch each utterance to `new_counts` frames and its mel axis by `formants`."""
    step = (counts - 1) / (new_counts - 1).clamp(min=1)
    time = torch.arange(frames, device=mel.device) * step[:, None]
    time = torch.minimum(time, (counts - 1).clamp(min=0)[:, None])
    mel = _interpolate(mel, time, counts - 1, 1)
    bins = torch.arange(MEL_BINS, device=mel.device) / formants[:, None]
    return _interpolate(mel, bins.clamp(max=MEL_BINS - 1), None, 2)


def _interpolate(mel: Tensor, position: Tensor, last: Tensor | None, axis: int) -> Tensor:
    """Read (B, F, bins) at fractional positions (B, n) of one axis."""
    below = position.long()
    above = below + 1
    if last is None:
        above = above.clamp(max=mel.shape[axis] - 1)
    else:
        above = torch.minimum(above, last.clamp(min=0)[:, None])
    share = (position - below).unsqueeze(3 - axis)
    shape = [len(mel), mel.shape[1], mel.shape[2]]
    shape[axis] = position.shape[1]
    lower = mel.gather(axis, below.unsqueeze(3 - axis).expand(shape))
    upper = mel.gather(axis, above.unsqueeze(3 - axis).expand(shape))
    return torch.lerp(lower, upper, share.expand(shape))


def colours_of(mel: Tensor, valid: Tensor) -> Tensor:
    """Return mean and deviation of each mel bin over the valid frames, (B, 2, bins)."""
    count = valid.sum(1).clamp(min=1)
    mean = (mel * valid).sum(1) / count
    variance = ((mel - mean[:, None]).square() * valid).sum(1) / count
    return torch.stack([mean, variance.sqrt()], dim=1)


def match_colours(mel: Tensor, valid: Tensor, colours: Tensor, share: Tensor) -> Tensor:
    """Move each utterance's colour towards another's, completely where `share` is 1."""
    own = colours_of(mel, valid)
    own_mean, share = own[:, 0], share[:, None]
    mean = own_mean + share * (colours[:, 0] - own_mean)
    ratio = (colours[:, 1] / own[:, 1].clamp(min=0.1)).clamp(0.5, 2.0) ** share
    return ((mel - own_mean[:, None]) * ratio[:, None] + mean[:, None]).clamp(min=LOG_FLOOR)


def reverberate(mel: Tensor, decay_s: Tensor, reverberation: Tensor) -> Tensor:
    """Add the reverberation of a room to each utterance, as `augment.reverberate` does to one."""
    relative = torch.linspace(1, 0.5, MEL_BINS, device=mel.device)
    kept = torch.exp(-math.log(1e6) / (decay_s[:, None, None] * relative * FRAMES_PER_SECOND))
    direct = mel.exp()
    tail = (1 - kept) * reverberation[:, None, None] * _later(direct, 1)
    for shift in TAIL_SHIFTS:
        tail = tail + kept**shift * _later(tail, shift)
    return (direct + tail).log()


def _later(frames: Tensor, shift: int) -> Tensor:
    """Shift (B, F, bins) by `shift` frames, with zeros before them."""
    return functional.pad(frames, (0, 0, shift, 0))[:, : frames.shape[1]]


def limit_bands(mel: Tensor, low: Tensor, high: Tensor, floor: Tensor) -> Tensor:
    """Lower values outside the bins `low` to `high` to `floor`."""
    bins = torch.arange(MEL_BINS, device=mel.device)
    outside = (bins < low[:, None]) | (bins >= high[:, None])
    ceiling = torch.where(outside, floor[:, None], math.inf)
    return torch.minimum(mel, ceiling[:, None])


def mask_blocks(mel: Tensor, valid: Tensor, bands: Tensor, gaps: Tensor) -> Tensor:
    """Replace bands (B, n x 2) of bins and gaps (B, n x 2) of frames by the utterance's mean."""
    mean = (mel * valid).sum((1, 2)) / (valid.sum((1, 2)) * MEL_BINS).clamp(min=1)
    masked = _inside(bands, mel.shape[2])[:, None] | _inside(gaps, mel.shape[1])[..., None]
    return torch.where(masked, mean[:, None, None], mel)


def _inside(intervals: Tensor, length: int) -> Tensor:
    """Return a mask (B, length) of the positions in any of the intervals (B, n x 2)."""
    begin, end = intervals.unflatten(1, (-1, 2)).unbind(-1)
    position = torch.arange(length, device=intervals.device)
    return ((position >= begin[..., None]) & (position < end[..., None])).any(1)
