"""Operations of a streaming encoder that are fused into one kernel each on a GPU.

With torch's own operations, a layer takes about eighty kernels, and moves its state through memory
several times. These three replace them in exported programs, by name (`torch.ops.earshot`): the
export traces them, and the server registers them before it opens a program.

On a CPU, and on a GPU without the Triton compiler, they are the plain operations below, which
define what they compute. Otherwise they are the kernels of `fused_kernels.py`.
"""

from __future__ import annotations

import os
import shutil
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional

MASKED = -1e30
"""Added to the score of a masked key; finite, so that no row can become NaN."""


@torch.library.custom_op("earshot::attend", mutates_args=())
def attend(
    projected: Tensor,
    by_distance: Tensor,
    pool: Tensor,
    first_row: Tensor,
    counters: Tensor,
    start: int,
    frames: int,
    ring_blocks: int,
) -> Tensor:
    """Attend to the ring of past chunks, in place, and to the new chunk.

    Args:
        projected: [B * T, 4, H, C]: queries by content and by position, keys and values.
        by_distance: [H, B * T, P], scores of the queries by position for each distance from query
            to key, `1 - T` first; P may be larger than needed.
        pool: state of all streams, [rows, T * C].
        first_row: int64 [B], first row of each stream's state.
        counters: int32 [B, 3]: ring position, filled blocks, valid frames of the chunk.
        start: row of this layer's keys within a state; its values follow.
        frames: T.
        ring_blocks: whole chunks of left context.

    Returns:
        [B * T, H * C] in the type of `projected`.
    """
    rows, _, heads, width = projected.shape
    batch, past = rows // frames, ring_blocks * frames
    row = torch.arange(2 * heads * ring_blocks, device=pool.device)
    ring = pool[first_row[:, None] + start + row].view(batch, 2, heads, past, width)
    query, _, keys, values = projected.view(batch, frames, 4, heads, width).permute(2, 0, 3, 1, 4)
    keys = torch.cat([ring[:, 0], keys], dim=2)
    values = torch.cat([ring[:, 1], values], dim=2)
    distance, valid = _keys_of(counters, frames, ring_blocks)
    by_query = by_distance.view(heads, batch, frames, -1).transpose(0, 1)
    position_scores = by_query.gather(3, distance.expand(-1, heads, -1, -1))
    mask = torch.where(valid, 0.0, MASKED)[:, None, None]
    scores = (query @ keys.transpose(2, 3)).float() + position_scores.float() + mask
    attended = scores.softmax(dim=3).to(values.dtype) @ values
    return attended.transpose(1, 2).reshape(rows, heads * width)


def _keys_of(counters: Tensor, frames: int, ring_blocks: int) -> tuple[Tensor, Tensor]:
    """Return the row of `by_distance` int64 [B, 1, T, K] and validity [B, K] of queries and keys.

    The newest ring block has age 1.
    """
    position, filled, length = counters.to(torch.int64).split(1, dim=1)
    block = torch.arange(ring_blocks, device=counters.device)
    behind = position - 1 - block
    age = torch.where(behind < 0, behind + ring_blocks, behind) + 1
    frame = torch.arange(frames, device=counters.device)
    past = (age[..., None] * frames - frame).flatten(1)
    offset = torch.cat([past, (-frame).expand(len(counters), -1)], dim=1)
    valid = torch.cat([(age <= filled).repeat_interleave(frames, 1), frame < length], dim=1)
    return offset[:, None, None] + frame[:, None] + (frames - 1), valid


@attend.register_fake
def _(projected: Tensor, *rest: object) -> Tensor:
    rows, _, heads, width = projected.shape
    return projected.new_empty(rows, heads * width)


@torch.library.custom_op("earshot::gated_convolution", mutates_args=())
def gated_convolution(
    projected: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Gate, convolve causally per channel, normalize, and apply SiLU.

    Args:
        projected: [B * T, 2 * D]: values and gates.
        tail: [B, (K - 1) * D], the last gated values of the stream.
        weight: [K, D].
        bias: [D].
        norm_weight: float32 [D]; `norm_bias` likewise.
        norm_bias: see `norm_weight`.
        epsilon: of the normalization.

    Returns:
        [B * T, D], and the next tail, in the type of `projected`.
    """
    kernel, width = weight.shape
    gated = functional.glu(projected, dim=1)
    frames = torch.cat(
        [tail.view(-1, kernel - 1, width), gated.view(tail.shape[0], -1, width)], dim=1
    )
    convolved = functional.conv1d(
        frames.transpose(1, 2), weight.T[:, None], bias, groups=width
    ).transpose(1, 2)
    flat = convolved.reshape(-1, width).float()
    normed = functional.layer_norm(flat, (width,), norm_weight, norm_bias, epsilon)
    return functional.silu(normed).to(projected.dtype), frames[:, 1 - kernel :].flatten(1)


@gated_convolution.register_fake
def _(projected: Tensor, tail: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return projected.new_empty(projected.shape[0], weight.shape[1]), tail.new_empty(tail.shape)


@torch.library.custom_op("earshot::add_and_norm", mutates_args=())
def add_and_norm(
    hidden: Tensor, branch: Tensor, weights: list[Tensor], epsilon: float
) -> tuple[Tensor, Tensor]:
    """Add a branch to the residual stream, and normalize the sum for the next branch.

    With two norms, the first is the one at the end of a layer, whose result is the new residual
    stream.

    Args:
        hidden: float32 [N, D].
        branch: [N, D].
        weights: weight and bias, float32 [D], of one or two norms.
        epsilon: of the norms.

    Returns:
        The residual stream float32 [N, D], and the normalized one in the type of `branch`.
    """
    total = hidden + branch.float()
    normed = functional.layer_norm(total, total.shape[1:], weights[0], weights[1], epsilon)
    if len(weights) > 2:
        total = normed
        normed = functional.layer_norm(total, total.shape[1:], weights[2], weights[3], epsilon)
    # Outputs of an operation may not share memory.
    return total, normed.to(branch.dtype, copy=True)


@add_and_norm.register_fake
def _(hidden: Tensor, branch: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(branch)


def _has_compiler() -> bool:
    """Return whether Triton finds the C compiler that it needs to launch kernels."""
    return "CC" in os.environ or any(map(shutil.which, ("gcc", "clang")))


if torch.cuda.is_available():
    if find_spec("triton") is not None and _has_compiler():
        from . import fused_kernels

        attend.register_kernel("cuda", fused_kernels.attend)
        gated_convolution.register_kernel("cuda", fused_kernels.gated_convolution)
        add_and_norm.register_kernel("cuda", fused_kernels.add_and_norm)
    else:
        warnings.warn(
            "Triton (the compiler) or a C compiler is missing: the encoder runs on plain "
            "operations, at less than half the speed; install triton and gcc",
            stacklevel=2,
        )
