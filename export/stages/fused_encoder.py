"""Encode a chunk with few, large operations: the streaming encoder for torch on a GPU.

It computes the same function as `Encoder`, with the same weights and state, but in larger
operations; `fused_ops.py` of the backend contains those that torch lacks. Attention reads keys and
values directly from the pool instead of gathering them first.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from export.errors import UnsupportedOption
from export.stages.adapters import Adapters, Projection, project
from export.stages.encoder import PROJECTOR, Attention, Convolution, Encoder, EncoderDims, Layer
from export.stages.fused_layers import Branch, add, two_queries
from export.stages.layers import in_type_of
from export.stages.state import PooledState, State, Update
from server.backends.earshot.earshot_runtime import fused_ops

_ALIGNED = 8
"""Matrix products are fast if rows begin at a multiple of this many values."""


class FusedEncoder(Encoder):
    """`Encoder` for pooled state, made of fused operations.

    Args:
        encoder: the encoder whose weights are used, in their precision; they may be shared.

    Raises:
        UnsupportedOption: an activation or a norm is not one that can be fused.
    """

    def __init__(self, encoder: Encoder) -> None:
        nn.Module.__init__(self)
        self.dims = encoder.dims
        self.layout = encoder.layout
        self.subsampling = encoder.subsampling
        self.projector = encoder.projector
        layers = [cast(Layer, layer) for layer in encoder.layers]
        self.first_norm = layers[0].feed_forward1.norm
        following = [*(layer.feed_forward1.norm for layer in layers[1:]), None]
        self.layers = nn.ModuleList(
            _FusedLayer(layer, norm, self.dims)
            for layer, norm in zip(layers, following, strict=True)
        )
        # The layers of `encoder` have the same inputs and outputs as the fused ones.
        self._projections = encoder.projections()

    def projections(self) -> tuple[Projection, ...]:
        """See `Stage.projections`."""
        return self._projections

    def step(
        self, *inputs: Tensor, state: State, adapters: Adapters | None = None
    ) -> tuple[tuple[Tensor, ...], Update]:
        """Encode one chunk; see `Encoder.step`."""
        assert isinstance(state, PooledState)
        mel, mel_length = inputs
        small = state.read(0, self.dims.small_rows).flatten(1)
        position, filled, *tails, padding = small.split(self.dims.small_sizes, dim=1)
        hidden, *stem_tails = self.subsampling(mel, mel_length, filled > 0, *tails[:3])
        encoded_length = self.encoded_length(mel_length)
        counters = torch.cat([position.int(), filled.int(), encoded_length], dim=1)
        normed = in_type_of(self.projector, self.first_norm(hidden))
        rows: list[Tensor] = []
        conv_tails: list[Tensor] = []
        for index, (layer, tail) in enumerate(zip(self.layers, tails[3:], strict=True)):
            start = self.dims.first_ring_row(index)
            hidden, normed, tail, new_rows = layer(
                hidden, normed, tail, counters, state, start, adapters
            )
            conv_tails.append(tail)
            rows.append(new_rows)
        encoded = project(self.projector, normed, adapters, PROJECTOR).float()
        encoded = encoded.reshape(-1, self.dims.frames, encoded.shape[1])
        position, filled = position.float(), filled.float()
        next_counters = (x.to(small.dtype) for x in self._next_counters(position, filled))
        parts = [*next_counters, *stem_tails, *conv_tails, torch.zeros_like(padding)]
        update = self._update(position, torch.cat(parts, dim=1), rows)
        return (encoded, encoded_length), update


class _FusedLayer(nn.Module):
    """One Conformer block, from the normalized residual stream to that of the next layer."""

    def __init__(self, layer: Layer, next_norm: nn.Module | None, dims: EncoderDims) -> None:
        super().__init__()
        self.feed_forward1 = Branch(layer.feed_forward1)
        self.norm_self_att = layer.norm_self_att
        self.attention = _FusedAttention(layer.attention, dims)
        self.norm_conv = layer.norm_conv
        self.convolution = _FusedConvolution(layer.convolution)
        self.feed_forward2 = Branch(layer.feed_forward2)
        self.norm_feed_forward2 = layer.feed_forward2.norm
        self.last_norms = nn.ModuleList([layer.norm_out, *([next_norm] if next_norm else [])])

    def forward(
        self,
        hidden: Tensor,
        normed: Tensor,
        tail: Tensor,
        counters: Tensor,
        state: PooledState,
        start: int,
        adapters: Adapters | None,
    ) -> tuple[Tensor, ...]:
        """Return residual stream, normalized stream, next convolution tail and new ring rows."""
        dtype = normed.dtype
        branch = self.feed_forward1(normed, adapters)
        hidden, normed = add(hidden, branch, dtype, self.norm_self_att)
        attended, new_rows = self.attention(normed, counters, state, start, adapters)
        hidden, normed = add(hidden, attended, dtype, self.norm_conv)
        convolved, tail = self.convolution(normed, tail)
        hidden, normed = add(hidden, convolved, dtype, self.norm_feed_forward2)
        hidden, normed = add(hidden, self.feed_forward2(normed, adapters), dtype, *self.last_norms)
        return hidden, normed, tail, new_rows


class _FusedAttention(nn.Module):
    """Attention over the ring in the pool and the chunk."""

    def __init__(self, attention: Attention, dims: EncoderDims) -> None:
        super().__init__()
        self.dims = dims
        self.projection = two_queries(attention)
        self.projected, self.combined = attention.projected, attention.combined
        keys = attention.position_keys.detach()
        self.position_keys = nn.Buffer(
            nn.functional.pad(keys, (0, -keys.shape[2] % _ALIGNED)).contiguous()
        )
        self.output = attention.output

    def forward(
        self,
        normed: Tensor,
        counters: Tensor,
        state: PooledState,
        start: int,
        adapters: Adapters | None,
    ) -> tuple[Tensor, Tensor]:
        """[B * T, D] -> the same shape and the new ring rows [B, 2H, T * head_dim]."""
        dims = self.dims
        heads = dims.num_attention_heads
        projected = self.projection(normed)
        if adapters is not None:
            change = adapters.change(self.projected[0], normed)
            # Both queries change in the same way.
            projected = projected + torch.cat([change[:, : dims.hidden_size], change], dim=1)
        projected = projected.view(-1, 4, heads, dims.head_dim)
        by_distance = torch.bmm(projected[:, 1].transpose(0, 1), self.position_keys)
        attended = fused_ops.attend(
            projected,
            by_distance,
            state.pool,
            state.first_row[:, 0],
            counters,
            start,
            dims.frames,
            dims.ring_blocks,
        )
        keys_and_values = projected.view(-1, dims.frames, 4, heads, dims.head_dim)[:, :, 2:]
        new_rows = keys_and_values.permute(0, 2, 3, 1, 4).reshape(-1, 2 * heads, dims.row_width)
        return project(self.output, attended, adapters, self.combined), new_rows


class _FusedConvolution(nn.Module):
    """The convolution module; its gate, depthwise convolution, norm and SiLU are one operation."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        if not isinstance(convolution.norm, nn.LayerNorm):
            raise UnsupportedOption(
                "runtime torch needs a LayerNorm in the convolution module, got "
                f"{type(convolution.norm).__name__}; choose runtime onnxruntime or tensorrt"
            )
        if not _is_silu(convolution.activation):
            raise UnsupportedOption(
                "runtime torch needs SiLU in the convolution module, got "
                f"{type(convolution.activation).__name__}; choose runtime onnxruntime or tensorrt"
            )
        self.pointwise1, self.pointwise2 = convolution.pointwise1, convolution.pointwise2
        self.norm = convolution.norm
        weight = convolution.depthwise_weight.detach()[:, 0].T.contiguous()
        bias = convolution.depthwise_bias
        self.weight = nn.Buffer(weight)
        self.bias = nn.Buffer(torch.zeros_like(weight[0]) if bias is None else bias.detach())

    def forward(self, normed: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """[B * T, D] and tail [B, (kernel - 1) * D] -> the same two."""
        activated, tail = fused_ops.gated_convolution(
            self.pointwise1(normed),
            tail,
            self.weight,
            self.bias,
            self.norm.weight,
            self.norm.bias,
            self.norm.eps,
        )
        return self.pointwise2(activated), tail


def _is_silu(activation: nn.Module) -> bool:
    sample = torch.linspace(-3, 3, 7)
    return bool(torch.equal(activation(sample), nn.functional.silu(sample)))
