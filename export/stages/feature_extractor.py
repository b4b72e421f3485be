"""Compute log-mel features of one chunk, equal to the reference's for the whole utterance.

The reference computes `torch.stft` with a 400-sample Hann window centred in 512 points. That
window is symmetric, so the transform splits into a cosine part of the even half of a frame and a
sine part of the odd half: two products of half the length, without an FFT operator that
a runtime might not support.

State (298 values): the last 297 samples, and 1.0 once a chunk has been seen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from export.audio import (
    FFT_SAMPLES,
    FRAME_SAMPLES,
    HOP_SAMPLES,
    LEAD_MEL_FRAMES,
    LOG_GUARD,
    SUBSAMPLING,
    TAIL_SAMPLES,
    WINDOW_SAMPLES,
)
from export.stages.adapters import Adapters
from export.stages.layout import StateLayout
from export.stages.state import Stage, State, Update, all_rows, whole_division

_HALF = WINDOW_SAMPLES // 2
_BLOCK = math.gcd(_HALF, HOP_SAMPLES)
"""Frames are cut in whole blocks, which copies 40 samples at once."""
_MEL_OFFSET_SAMPLES = 96
"""`(AUDIO_LENGTH + 96) // 160` mel frames of a chunk are valid (see `MEL_LENGTH`)."""


class FeatureExtractor(Stage):
    """AUDIO float32 [B, C], AUDIO_LENGTH int32 [B, 1] -> MEL [B, 8T, n_mels], MEL_LENGTH [B, 1].

    Args:
        mel_filters: float32 [n_mels, 257], the checkpoint's own filter bank.
        preemphasis: coefficient of the first-order high-pass in front of the transform.
        frames: T, encoder frames per chunk.
    """

    layout = StateLayout(rows=1, width=TAIL_SAMPLES + 2)

    def __init__(self, mel_filters: Tensor, preemphasis: float, frames: int) -> None:
        super().__init__()
        self.preemphasis = preemphasis
        self.mel_frames = SUBSAMPLING * frames
        self.chunk_samples = FRAME_SAMPLES * frames
        self.framed_samples = (self.mel_frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES
        cosine, sine = half_window_transform()
        self.cosine, self.sine = nn.Buffer(cosine), nn.Buffer(sine)
        self.mel_filters = nn.Buffer(mel_filters.T.contiguous())
        starts = torch.arange(self.mel_frames) * (HOP_SAMPLES // _BLOCK)
        run = torch.arange(_HALF // _BLOCK)
        right = starts[:, None] + _HALF // _BLOCK + run
        last = self.framed_samples // _BLOCK - _HALF // _BLOCK
        left_reversed = (last - starts)[:, None] + run
        self.right_blocks = nn.Buffer(right.flatten())
        self.left_blocks = nn.Buffer(left_reversed.flatten())

    def step(
        self, *inputs: Tensor, state: State, adapters: Adapters | None = None
    ) -> tuple[tuple[Tensor, ...], Update]:
        """Extract the features of one chunk; see the class and module for shapes and state."""
        audio, audio_length = inputs
        tail_and_flag = state.read(0, 1)[:, 0]
        tail, started = tail_and_flag[:, :-1], tail_and_flag[:, -1:]
        samples = torch.cat([tail, audio], dim=1)
        mel = self._log_mel(self._emphasised(samples, audio_length))
        mel_length = whole_division(audio_length + _MEL_OFFSET_SAMPLES, HOP_SAMPLES)
        mel_length = mel_length.clamp(0, self.mel_frames)
        mel = mel * self._valid(started, mel_length)
        next_state = torch.cat([samples[:, -TAIL_SAMPLES - 1 :], torch.ones_like(started)], dim=1)
        update = Update(rows=all_rows(self.layout, audio), values=next_state[:, None])
        return (mel, mel_length), update

    def _emphasised(self, samples: Tensor, audio_length: Tensor) -> Tensor:
        """Apply pre-emphasis, then silence after the end of the audio, as the reference does."""
        emphasised = samples[:, 1:] - self.preemphasis * samples[:, :-1]
        position = torch.arange(self.framed_samples, dtype=torch.int32, device=samples.device)
        inside = position[None] < audio_length + TAIL_SAMPLES
        return emphasised[:, : self.framed_samples] * inside.to(samples.dtype)

    def _log_mel(self, samples: Tensor) -> Tensor:
        right = self._frames(samples, self.right_blocks)
        left = self._frames(samples.flip(1), self.left_blocks)
        real = (right + left) @ self.cosine
        imaginary = (right - left) @ self.sine
        power = real * real + imaginary * imaginary
        return torch.log(power @ self.mel_filters + LOG_GUARD)

    def _frames(self, samples: Tensor, blocks: Tensor) -> Tensor:
        in_blocks = samples.reshape(-1, self.framed_samples // _BLOCK, _BLOCK)
        return in_blocks.index_select(1, blocks).reshape(-1, self.mel_frames, _HALF)

    def _valid(self, started: Tensor, mel_length: Tensor) -> Tensor:
        """Return 1.0 for mel frames of the utterance, 0.0 before its start and after its end."""
        frame = torch.arange(self.mel_frames, dtype=torch.int32, device=started.device)[None]
        exists = (started > 0) | (frame >= LEAD_MEL_FRAMES)
        return (exists & (frame < mel_length)).to(started.dtype)[..., None]


def half_window_transform() -> tuple[Tensor, Tensor]:
    """Return windowed cosine and sine bases [200, 257] over the distance from the centre."""
    window = torch.hann_window(WINDOW_SAMPLES, periodic=False, dtype=torch.float64)[_HALF:]
    distance = torch.arange(_HALF, dtype=torch.float64) + 0.5
    frequency = torch.arange(FFT_SAMPLES // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * distance[:, None] * frequency / FFT_SAMPLES
    cosine = window[:, None] * torch.cos(angle)
    sine = window[:, None] * torch.sin(angle)
    return cosine.float(), sine.float()
