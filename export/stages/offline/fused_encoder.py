"""Encode whole utterances with few, large operations: the offline encoder for torch on a GPU.

It computes the same function as `OfflineEncoder` with the same weights, in any precision. Operands
of matrix products have the precision of the weights; the residual stream and its norms are float32.
Position scores and the mask become one bias, so that torch's attention runs as one kernel. The
position scores of all heads are one product over the rows of all utterances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.stages.adapters import AdaptedModule, Adapters, Projection, project
from export.stages.encoder import PROJECTOR
from export.stages.fused_layers import Branch, add, two_queries
from export.stages.layers import in_type_of
from export.stages.offline.encoder import Causal, OfflineEncoder, encoder_frames
from export.stages.state import whole_division

MASKED = -3e4
"""Added to the score of a masked key; finite even in half precision, so that no row becomes NaN."""

_SPARE = 8
"""Unused columns on both sides of the position keys; eight keep the rows of products aligned."""


@dataclass(frozen=True)
class _Context:
    """Values of the batch that all layers share, in the precision of the weights."""

    valid: Tensor
    """[B, T, 1]: 1 for frames of the utterance, 0 after its end."""
    mask: Tensor
    """[B, 1, 1 or T, T]: 0 for valid keys, else `MASKED`."""
    adapters: Adapters | None


class FusedOfflineEncoder(AdaptedModule):
    """MEL float32 [B, M, n_mels], MEL_LENGTH int32 [B, 1] -> ENCODED [B, T, D], ENCODED_LENGTH.

    Args:
        encoder: the encoder whose weights are used, in their precision; they may be shared.
    """

    def __init__(self, encoder: OfflineEncoder) -> None:
        super().__init__()
        self.causal = encoder.causal
        self.subsampling = encoder.subsampling
        self.projector = encoder.projector
        layers: list[Any] = list(encoder.layers)
        self.first_norm = layers[0].feed_forward1.norm
        following = [*(layer.feed_forward1.norm for layer in layers[1:]), None]
        self.layers = nn.ModuleList(
            _FusedLayer(layer, norm) for layer, norm in zip(layers, following, strict=True)
        )
        # The layers of `encoder` have the same inputs and outputs as the fused ones.
        self._projections = encoder.projections()

    def projections(self) -> tuple[Projection, ...]:
        """See `AdaptedModule.projections`."""
        return self._projections

    def forward(
        self, mel: Tensor, mel_length: Tensor, adapters: Adapters | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch of utterances; see the class."""
        linear = self.subsampling.linear
        frames = self.subsampling(in_type_of(linear, mel), mel_length)
        length = encoder_frames(mel_length, self.causal is not None)
        context = _context(frames, linear.weight.dtype, length, self.causal, adapters)
        hidden = frames.flatten(0, 1).float()
        normed = in_type_of(linear, self.first_norm(hidden))
        for layer in self.layers:
            hidden, normed = layer(hidden, normed, context)
        encoded = normed
        if self.projector is not None:
            encoded = project(self.projector, normed, adapters, PROJECTOR)
        return encoded.float().reshape(frames.shape[0], frames.shape[1], -1), length


def _context(
    frames: Tensor,
    dtype: torch.dtype,
    length: Tensor,
    causal: Causal | None,
    adapters: Adapters | None,
) -> _Context:
    frame = torch.arange(frames.shape[1], dtype=torch.int32, device=frames.device)
    valid = frame < length
    attended = valid[:, None]
    if causal is not None:
        chunk = whole_division(frame, causal.chunk_frames)
        behind = chunk[:, None] - chunk
        attended = attended & (behind >= 0) & (behind <= causal.left_chunks)
    mask = torch.where(attended, 0.0, MASKED).to(dtype)
    return _Context(valid.to(dtype)[..., None], mask[:, None], adapters)


class _FusedLayer(nn.Module):
    """One Conformer block, from the normalized residual stream to that of the next layer."""

    def __init__(self, layer: Any, next_norm: nn.Module | None) -> None:
        super().__init__()
        self.feed_forward1 = Branch(layer.feed_forward1)
        self.norm_self_att = layer.norm_self_att
        self.attention = _FusedAttention(layer.attention)
        self.norm_conv = layer.norm_conv
        self.convolution = _FusedConvolution(layer.convolution)
        self.feed_forward2 = Branch(layer.feed_forward2)
        self.norm_feed_forward2 = layer.feed_forward2.norm
        self.last_norms = nn.ModuleList([layer.norm_out, *([next_norm] if next_norm else [])])

    def forward(self, hidden: Tensor, normed: Tensor, context: _Context) -> tuple[Tensor, Tensor]:
        """Return residual stream and normalized stream [B * T, D]."""
        adapters, dtype = context.adapters, normed.dtype
        branch = self.feed_forward1(normed, adapters)
        hidden, normed = add(hidden, branch, dtype, self.norm_self_att)
        hidden, normed = add(hidden, self.attention(normed, context), dtype, self.norm_conv)
        branch = self.convolution(normed, context)
        hidden, normed = add(hidden, branch, dtype, self.norm_feed_forward2)
        return add(hidden, self.feed_forward2(normed, adapters), dtype, *self.last_norms)


class _FusedAttention(nn.Module):
    """Attention to the whole utterance, or to the chunks of the mask, with relative positions."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.head_dim = attention.heads, attention.head_dim
        self.max_frames = attention.max_frames
        self.projection = two_queries(attention)
        self.projected, self.combined = attention.projected, attention.combined
        # The table is wider than any slice of it; else the traced program would exclude the longest
        # length.
        self.position_keys = nn.Buffer(functional.pad(attention.position_keys, (_SPARE, _SPARE)))
        self.output = attention.output

    def forward(self, normed: Tensor, context: _Context) -> Tensor:
        """[B * T, D] -> the same."""
        batch, frames = context.valid.shape[:2]
        projected = self._project(normed, context.adapters)
        projected = projected.view(-1, 4, self.heads, self.head_dim)
        queries, _, keys, values = (
            projected.view(batch, frames, 4, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        ).unbind()
        bias = self._position_scores(projected[:, 1], batch, frames) + context.mask
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=bias, scale=1.0
        )
        flat = attended.transpose(1, 2).reshape(-1, self.heads * self.head_dim)
        return project(self.output, flat, context.adapters, self.combined)

    def _project(self, normed: Tensor, adapters: Adapters | None) -> Tensor:
        """Return both queries, keys and values [B * T, 4 * D]."""
        projected = self.projection(normed)
        if adapters is None:
            return projected
        change = adapters.change(self.projected[0], normed)
        # Both queries change in the same way.
        return projected + torch.cat([change[:, : self.heads * self.head_dim], change], dim=1)

    def _position_scores(self, queries: Tensor, batch: int, frames: int) -> Tensor:
        """Return the scores by position of `queries` [B * T, H, C] as [B, H, T, T] by key.

        Columns of the product are distances, `T - 1` first, so key `j` of query `i` is in column `T
        - 1 - i + j`: a view with rows one column shorter shifts each row by one, without a copy.
        """
        middle = _SPARE + self.max_frames
        nearest = slice(middle - frames, middle + frames)
        by_distance = torch.bmm(queries.transpose(0, 1), self.position_keys[:, :, nearest])
        flat = by_distance.view(self.heads, batch, 2 * frames * frames)
        moved = flat[:, :, frames - 1 : frames - 1 + frames * (2 * frames - 1)]
        shape = (self.heads, batch, frames, 2 * frames - 1)
        return moved.reshape(shape)[..., :frames].transpose(0, 1)


class _FusedConvolution(nn.Module):
    """Gated pointwise, depthwise, norm, pointwise; the pointwise ones are linear layers."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.pointwise1, self.pointwise2 = convolution.pointwise1, convolution.pointwise2
        self.weight, self.bias = convolution.weight, convolution.bias
        self.norm, self.activation = convolution.norm, convolution.activation
        self.padding = convolution.padding

    def forward(self, normed: Tensor, context: _Context) -> Tensor:
        """[B * T, D] -> the same."""
        batch, frames = context.valid.shape[:2]
        gated = functional.glu(self.pointwise1(normed), dim=1)
        valid = gated.view(batch, frames, -1) * context.valid
        padded = functional.pad(valid.transpose(1, 2), self.padding)
        convolved = functional.conv1d(padded, self.weight, self.bias, groups=gated.shape[1])
        flat = convolved.transpose(1, 2).reshape(gated.shape)
        if isinstance(self.norm, nn.LayerNorm):
            flat = self.norm(flat.float())
        return self.pointwise2(in_type_of(self.pointwise2, self.activation(flat)))
