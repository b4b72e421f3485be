"""Count the frames of a stream in a float32 state, for longer than a stream lasts.

Float32 has every whole number up to 2^24 only, and a stream of 80 ms frames gets there after 15
days. So a count is two values: whole spans, and the frames after them. It is exact up to 2^44
frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPAN_FRAMES = 2**20
VALUES = 2
"""The values of one count: whole spans, and the frames after them. Zeros are the count 0."""


def as_integer(count: Tensor) -> Tensor:
    """Return counts [B, VALUES] as int32 [B, 1], which ends at 2^31: after five years."""
    spans, frames = count.to(torch.int32).split(1, dim=1)
    return spans * SPAN_FRAMES + frames


def advanced(count: Tensor, frames: Tensor) -> Tensor:
    """Return counts [B, VALUES] increased by the frames [B, 1] of one chunk."""
    spans, after = count.split(1, dim=1)
    after = after + frames.to(after.dtype)
    carry = (after >= SPAN_FRAMES).to(after.dtype)
    return torch.cat([spans + carry, after - carry * SPAN_FRAMES], dim=1)
