"""Count the frames of a stream exactly in a float32 state, even for very long streams.

Float32 represents whole numbers exactly only up to 2^24, which a stream of 80 ms frames reaches
after 15 days. So a count is two values: the number of spans of 2^20 frames that the stream has
begun, and its frames in the last of them. Zeros are the count of a stream before its first chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPAN_FRAMES = 2**20
VALUES = 2
"""Number of values of one count."""


def has_begun(count: Tensor) -> Tensor:
    """Return bool [B, 1] from counts [B, VALUES]: true if the stream has had a chunk."""
    return count[:, :1] > 0


def as_integer(count: Tensor) -> Tensor:
    """Return counts [B, VALUES] as int32 [B, 1], which overflows at 2^31: after five years."""
    begun, frames = count.split(1, dim=1)
    spans = (begun - 1).clamp(min=0)
    return spans.to(torch.int32) * SPAN_FRAMES + frames.to(torch.int32)


def advanced(count: Tensor, frames: Tensor) -> Tensor:
    """Return counts [B, VALUES] after a chunk of `frames` [B, 1], which may be 0."""
    begun, before = count.split(1, dim=1)
    after = before + frames.to(before.dtype)
    ended = (after >= SPAN_FRAMES).to(after.dtype)
    return torch.cat([begun.clamp(min=1) + ended, after - ended * SPAN_FRAMES], dim=1)
