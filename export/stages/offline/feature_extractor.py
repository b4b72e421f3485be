"""Compute log-mel features of whole utterances, equal to the reference's frame for frame.

The transform is that of the streaming stage: the window is symmetric, so a frame's even half is
multiplied by cosines and its odd half by sines. Features of Parakeet models are also normalized:
each mel bin to mean 0 and deviation 1 over the valid frames of its utterance, independent of the
padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.audio import HOP_SAMPLES, LOG_GUARD, WINDOW_SAMPLES
from export.stages.adapters import AdaptedModule
from export.stages.feature_extractor import half_window_transform
from export.stages.state import whole_division

_HALF = WINDOW_SAMPLES // 2
_NORMALIZATION_GUARD = 1e-5
"""Added to a deviation before dividing by it, as the reference does."""
_FEWEST_NORMALIZED_FRAMES = 2
"""A single frame has no deviation: the reference divides 0 by 0 and returns NaN."""


class OfflineFeatureExtractor(AdaptedModule):
    """AUDIO float32 [B, N], AUDIO_LENGTH int32 [B, 1] -> MEL [B, N / 160, n_mels], MEL_LENGTH.

    N is a multiple of 160. Frames after MEL_LENGTH int32 [B, 1] are 0. An utterance that is too
    short to be normalized has no frames.

    Args:
        mel_filters: float32 [n_mels, 257], the checkpoint's own filter bank.
        preemphasis: coefficient of the first-order high-pass in front of the transform.
        normalize: normalize each mel bin over its utterance.
    """

    def __init__(self, mel_filters: Tensor, preemphasis: float, normalize: bool) -> None:
        super().__init__()
        self.preemphasis = preemphasis
        self.normalize = normalize
        cosine, sine = half_window_transform()
        self.cosine, self.sine = nn.Buffer(cosine), nn.Buffer(sine)
        self.mel_filters = nn.Buffer(mel_filters.T.contiguous())

    def forward(self, audio: Tensor, audio_length: Tensor) -> tuple[Tensor, Tensor]:
        """Extract the features of a batch of utterances; see the class."""
        mel = self._log_mel(_frames(self._emphasised(audio, audio_length)))
        length = whole_division(audio_length, HOP_SAMPLES)
        if self.normalize:
            length = length * (length >= _FEWEST_NORMALIZED_FRAMES).to(length.dtype)
            mel = _normalized(mel, length)
        return mel * _valid(mel, length), length

    def _emphasised(self, audio: Tensor, audio_length: Tensor) -> Tensor:
        """Apply pre-emphasis, then silence after the end of the audio, as the reference does."""
        before = functional.pad(audio, (1, 0))[:, :-1]
        position = torch.arange(audio.shape[1], dtype=torch.int32, device=audio.device)
        inside = (position < audio_length).to(audio.dtype)
        return (audio - self.preemphasis * before) * inside

    def _log_mel(self, frames: Tensor) -> Tensor:
        left, right = frames.split([_HALF, _HALF], dim=2)
        left = left.flip(2)
        real = (right + left) @ self.cosine
        imaginary = (right - left) @ self.sine
        power = real * real + imaginary * imaginary
        return torch.log(power @ self.mel_filters + LOG_GUARD)


def _frames(samples: Tensor) -> Tensor:
    """Return windows of 400 samples around every 160th one, from sample 0 on: [B, M, 400].

    A window is two and a half hops, so it is cut from rows of one hop.
    """
    hops = samples.shape[1] // HOP_SAMPLES
    padded = functional.pad(samples, (_HALF, 2 * HOP_SAMPLES - _HALF))
    rows = padded.reshape(-1, hops + 2, HOP_SAMPLES)
    rest = rows[:, 2:, : WINDOW_SAMPLES - 2 * HOP_SAMPLES]
    return torch.cat([rows[:, :-2], rows[:, 1:-1], rest], dim=2)


def _valid(mel: Tensor, length: Tensor) -> Tensor:
    """Return 1.0 for the frames of the utterance, 0.0 after its end: [B, M, 1]."""
    frame = torch.arange(mel.shape[1], dtype=torch.int32, device=mel.device)
    return (frame < length).to(mel.dtype)[..., None]


def _normalized(mel: Tensor, length: Tensor) -> Tensor:
    """Normalize each mel bin to mean 0 and deviation 1 over the valid frames."""
    valid = _valid(mel, length)
    frames = length.to(mel.dtype)[..., None]
    mean = (mel * valid).sum(dim=1, keepdim=True) / frames.clamp(min=1)
    difference = (mel - mean) * valid
    variance = (difference * difference).sum(dim=1, keepdim=True) / (frames - 1).clamp(min=1)
    return difference / (variance.sqrt() + _NORMALIZATION_GUARD)
