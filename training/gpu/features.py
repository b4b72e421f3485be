"""Compute log-mel features of a whole batch on its device, at any playback speed.

A recording played `s` times as fast has at frequency f the content of the original at f / s. So a
change of speed needs no resampling: the window and the hop are `s` times as long, and the Fourier
transform is evaluated at frequencies divided by `s`. The transform is a matrix product, which needs
no plan for each shape. At speed 1 the result is that of the checkpoint's extractor.
"""

import math
from functools import cache

import torch
from torch import Tensor

from training.features import HOP_SAMPLES, SAMPLE_RATE_HZ, extractor

N_FFT = 512
BINS = N_FFT // 2 + 1
WINDOW_SAMPLES = 400
PREEMPHASIS = 0.97
LOG_GUARD = 2**-24


def log_mel_batch(sound: Tensor, counts: Tensor, hop: int = HOP_SAMPLES) -> tuple[Tensor, Tensor]:
    """Return log-mel frames (B, F, bins), zero past their counts, and the counts (B,).

    Args:
        sound: Samples (B, S) at 16 kHz; values past the counts are ignored.
        counts: Valid samples of each row (B,).
        hop: Samples from frame to frame; a value other than 160 plays `hop / 160` times as fast.
    """
    with torch.autocast(sound.device.type, enabled=False):
        kernel = _transform(hop, sound.device)
        window = kernel.shape[0]
        emphasized = torch.cat([sound[:, :1], sound[:, 1:] - PREEMPHASIS * sound[:, :-1]], dim=1)
        sample = torch.arange(sound.shape[1], device=sound.device)
        emphasized = emphasized * (sample < counts[:, None])
        frames = sound.shape[1] // hop
        padded = torch.nn.functional.pad(emphasized, (window // 2, window // 2))
        windows = padded.unfold(1, window, hop)[:, :frames]
        spectrum = windows.reshape(-1, window) @ kernel
        power = spectrum[:, :BINS].square() + spectrum[:, BINS:].square()
        mel = (power @ _filters(sound.device) + LOG_GUARD).log()
    frame_counts = counts // hop
    valid = torch.arange(frames, device=sound.device) < frame_counts[:, None]
    return mel.view(len(sound), frames, -1) * valid[..., None], frame_counts


@cache
def _transform(hop: int, device: torch.device) -> Tensor:
    """Return windowed cosines and sines, (window, 2 x BINS)."""
    speed = hop / HOP_SAMPLES
    window = 2 * round(WINDOW_SAMPLES * speed / 2)
    sample = torch.arange(window, dtype=torch.float64)[:, None]
    frequency = torch.arange(BINS, dtype=torch.float64)[None] / (N_FFT * speed)
    angle = 2 * math.pi * sample * frequency
    shape = torch.hann_window(window, periodic=False, dtype=torch.float64)[:, None] / speed
    return torch.cat([angle.cos() * shape, angle.sin() * shape], dim=1).float().to(device)


@cache
def _filters(device: torch.device) -> Tensor:
    assert extractor().sampling_rate == SAMPLE_RATE_HZ
    return extractor().mel_filters.T.contiguous().to(device)
