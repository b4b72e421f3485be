"""Triton kernels of the operations in `fused_ops.py`, which defines what they compute."""

# Triton kernels are a language of their own: arguments are pointers and numbers without types.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MASKED = tl.constexpr(-1e30)


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
    """See `fused_ops.attend`; one program per stream and head."""
    rows, _, heads, width = projected.shape
    attended = projected.new_empty(rows, heads * width)
    keys = (ring_blocks + 1) * frames
    _attend[(rows // frames, heads)](
        projected,
        by_distance,
        pool,
        first_row,
        counters,
        attended,
        start,
        rows,
        by_distance.shape[2],
        T=frames,
        HEADS=heads,
        C=width,
        RING=ring_blocks,
        QUERIES=max(16, triton.next_power_of_2(frames)),
        KEYS=triton.next_power_of_2(keys),
        CHANNELS=triton.next_power_of_2(width),
        num_warps=4,
    )
    return attended


# Else it would be compiled twice: for row counts that are multiples of 16, and for others.
@triton.jit(do_not_specialize=["rows"])
def _attend(
    projected,
    by_distance,
    pool,
    first_row,
    counters,
    attended,
    start,
    rows,
    distances,
    T: tl.constexpr,
    HEADS: tl.constexpr,
    C: tl.constexpr,
    RING: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    stream = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    query = tl.arange(0, QUERIES)
    key = tl.arange(0, KEYS)
    channel = tl.arange(0, CHANNELS)
    row_width = 4 * HEADS * C
    chunk = projected + stream * T * row_width + head * C
    is_query = query < T
    is_channel = channel < C
    queries = tl.load(
        chunk + query[:, None] * row_width + channel[None, :],
        mask=is_query[:, None] & is_channel[None, :],
        other=0.0,
    )
    # The rows of a ring are contiguous: its keys are one matrix [RING * T, C].
    ring = pool + (tl.load(first_row + stream) + start + head * RING) * T * C
    past = RING * T
    new = key - past
    is_past = key < past
    is_new = (new >= 0) & (new < T)
    in_ring = key[None, :] * C + channel[:, None]
    in_chunk = new[None, :] * row_width + channel[:, None]
    from_ring = is_past[None, :] & is_channel[:, None]
    from_chunk = is_new[None, :] & is_channel[:, None]
    # Each load is zero where the other one provides the key.
    keys = tl.load(ring + in_ring, mask=from_ring, other=0.0) + tl.load(
        chunk + 2 * HEADS * C + in_chunk, mask=from_chunk, other=0.0
    )
    scores = tl.dot(queries, keys, input_precision="ieee")
    position = tl.load(counters + 3 * stream)
    filled = tl.load(counters + 3 * stream + 1)
    length = tl.load(counters + 3 * stream + 2)
    behind = position - 1 - key // T
    age = tl.where(behind < 0, behind + RING, behind) + 1
    offset = tl.where(is_past, age * T - key % T, -new)
    valid = tl.where(is_past, age <= filled, new < length)
    distance = offset[None, :] + query[:, None] + (T - 1)
    by_query = by_distance + (head * rows + stream * T + query[:, None]) * distances
    is_key = key < past + T
    scores += tl.load(by_query + distance, mask=is_query[:, None] & is_key[None, :], other=0.0).to(
        tl.float32
    )
    scores += tl.where(valid, 0.0, MASKED)[None, :]
    scores = tl.where(is_key[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    weights = weights / tl.sum(weights, axis=1)[:, None]
    in_ring = key[:, None] * C + channel[None, :]
    in_chunk = new[:, None] * row_width + channel[None, :]
    from_ring = is_past[:, None] & is_channel[None, :]
    from_chunk = is_new[:, None] & is_channel[None, :]
    values = tl.load(ring + HEADS * RING * T * C + in_ring, mask=from_ring, other=0.0) + tl.load(
        chunk + 3 * HEADS * C + in_chunk, mask=from_chunk, other=0.0
    )
    result = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    tl.store(
        attended + (stream * T + query[:, None]) * HEADS * C + head * C + channel[None, :],
        result.to(values.dtype),
        mask=is_query[:, None] & is_channel[None, :],
    )


def gated_convolution(
    projected: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """See `fused_ops.gated_convolution`; one program per frame of result or of next tail."""
    kernel, width = weight.shape
    batch = tail.shape[0]
    frames = projected.shape[0] // batch
    activated = projected.new_empty(projected.shape[0], width)
    next_tail = projected.new_empty(batch, (kernel - 1) * width)
    _convolve[(batch, frames + kernel - 1)](
        projected,
        tail,
        tail.stride(0),
        weight,
        bias,
        norm_weight,
        norm_bias,
        activated,
        next_tail,
        epsilon,
        T=frames,
        K=kernel,
        D=width,
        CHANNELS=triton.next_power_of_2(width),
        num_warps=4,
    )
    return activated, next_tail


@triton.jit
def _gated_frame(
    projected, tail, frame, channel, is_channel, T: tl.constexpr, K: tl.constexpr, D: tl.constexpr
):
    """Return gated values of a frame of the chunk, or of the tail if `frame` is below zero."""
    of_tail = is_channel & (frame < 0)
    of_chunk = is_channel & (frame >= 0)
    before = tl.load(tail + (frame + K - 1) * D + channel, mask=of_tail, other=0.0)
    at = projected + frame * 2 * D + channel
    value = tl.load(at, mask=of_chunk, other=0.0)
    gate = tl.load(at + D, mask=of_chunk, other=0.0).to(tl.float32)
    gated = value.to(tl.float32) / (1 + tl.exp(-gate))
    return tl.where(frame < 0, before, gated.to(before.dtype))


@triton.jit
def _convolve(
    projected,
    tail,
    tail_stride,
    weight,
    bias,
    norm_weight,
    norm_bias,
    activated,
    next_tail,
    epsilon,
    T: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    stream = tl.program_id(0).to(tl.int64)
    frame = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    is_channel = channel < D
    chunk = projected + stream * T * 2 * D
    own_tail = tail + stream * tail_stride
    if frame < T:
        total = tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)
        for tap in tl.static_range(K):
            values = _gated_frame(
                chunk, own_tail, frame + tap - (K - 1), channel, is_channel, T, K, D
            )
            factor = tl.load(weight + tap * D + channel, mask=is_channel, other=0.0)
            total += values.to(tl.float32) * factor.to(tl.float32)
        mean = tl.sum(total, axis=0) / D
        centred = tl.where(is_channel, total - mean, 0.0)
        scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / D + epsilon)
        normed = centred * scale * tl.load(norm_weight + channel, mask=is_channel, other=0.0)
        normed += tl.load(norm_bias + channel, mask=is_channel, other=0.0)
        result = normed / (1 + tl.exp(-normed))
        tl.store(
            activated + (stream * T + frame) * D + channel,
            result.to(activated.dtype.element_ty),
            mask=is_channel,
        )
    else:
        # Frame T of the grid is the first of the next tail: T - (K - 1) of the chunk.
        kept = frame - (K - 1)
        values = _gated_frame(chunk, own_tail, kept, channel, is_channel, T, K, D)
        at = next_tail + (stream * (K - 1) + frame - T) * D + channel
        tl.store(at, values, mask=is_channel)


def add_and_norm(
    hidden: Tensor, branch: Tensor, weights: list[Tensor], epsilon: float
) -> tuple[Tensor, Tensor]:
    """See `fused_ops.add_and_norm`; one program per row."""
    rows, width = hidden.shape
    total, normed = torch.empty_like(hidden), torch.empty_like(branch)
    _add_and_norm[(rows,)](
        hidden,
        branch,
        weights[0],
        weights[1],
        weights[-2],
        weights[-1],
        total,
        normed,
        epsilon,
        TWICE=len(weights) > 2,
        D=width,
        CHANNELS=triton.next_power_of_2(width),
        num_warps=4,
    )
    return total, normed


@triton.jit
def _normalized(values, weight, bias, channel, is_channel, epsilon, D: tl.constexpr):
    mean = tl.sum(values, axis=0) / D
    centred = tl.where(is_channel, values - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / D + epsilon)
    normed = centred * scale * tl.load(weight + channel, mask=is_channel, other=0.0)
    return normed + tl.load(bias + channel, mask=is_channel, other=0.0)


@triton.jit
def _add_and_norm(
    hidden,
    branch,
    weight,
    bias,
    next_weight,
    next_bias,
    total,
    normed,
    epsilon,
    TWICE: tl.constexpr,
    D: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    is_channel = channel < D
    at = row * D + channel
    values = tl.load(hidden + at, mask=is_channel, other=0.0)
    values += tl.load(branch + at, mask=is_channel, other=0.0).to(tl.float32)
    if TWICE:
        values = _normalized(values, weight, bias, channel, is_channel, epsilon, D)
    tl.store(total + at, values, mask=is_channel)
    result = _normalized(values, next_weight, next_bias, channel, is_channel, epsilon, D)
    tl.store(normed + at, result.to(normed.dtype.element_ty), mask=is_channel)
