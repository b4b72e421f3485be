"""Encode one chunk at a time with the cache-aware FastConformer.

Equivalent to `NemotronAsrStreamingEncoder` over the whole utterance (Rekesh et al. 2023, Noroozi et
al. 2023, arXiv 2312.17279) with the same lookahead. Three design choices make it fast:

- Keys and values of past chunks are a ring of whole chunks that is written in place and never
  shifted. The order of keys does not change the attention; only the relative position and the mask
  depend on it, and both are gathered by the age of each ring block.
- Scores of the past and of the new chunk are computed separately and concatenated, not their keys
  and values.
- Projections run on `[B * T, D]`, 1x1 convolutions are linear layers, constant factors are part of
  the weights.

The same code runs in half precision if its weights are half (see `half.py`): products,
convolutions, keys and values then have the weights' type. Everything that would lose precision or
overflow is explicitly float32: the residual stream, LayerNorm, scores from their sum on, softmax,
counters. In float32 these conversions do nothing.

State, as rows of `T * head_dim` values: first the small part (ring position, filled blocks, last
input frame of each subsampling convolution, last inputs of each depthwise convolution, zero
padding), then keys and values as `[layer, key or value, head, ring block]` rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.audio import SUBSAMPLING
from export.errors import UnsupportedOption
from export.stages.adapters import Adapters, Projection, project
from export.stages.layers import FeedForward, as_linear, in_type_of, joined, scaled
from export.stages.layout import StateLayout
from export.stages.state import Stage, State, Update, whole_division

PROJECTOR = "encoder_projector"
"""Name of the last layer in the checkpoint."""
_MASKED = -1e30
"""Added to the score of a masked key; finite, so that no row can become NaN."""


@dataclass(frozen=True)
class EncoderDims:
    """Sizes of an encoder, named after the fields of `NemotronAsrStreamingEncoderConfig`."""

    frames: int
    """T, encoder frames per chunk."""
    num_mel_bins: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    conv_kernel_size: int
    subsampling_conv_channels: int
    ring_blocks: int
    """Whole chunks of left context."""

    @classmethod
    def from_config(cls, config: Any, frames: int) -> EncoderDims:
        """Read the sizes from a transformers encoder config.

        Raises:
            UnsupportedOption: the stage does not support the config.
        """
        ring_blocks = (config.sliding_window - 1) // frames
        if ring_blocks < 1:
            raise UnsupportedOption(
                f"left context of {config.sliding_window - 1} frames is shorter than one chunk of "
                f"{frames} frames; choose a smaller chunk"
            )
        kernel = (config.subsampling_conv_kernel_size, config.subsampling_conv_stride)
        if config.subsampling_factor != SUBSAMPLING or kernel != (3, 2):
            raise UnsupportedOption(
                "only a subsampling factor of 8 with kernel 3 and stride 2 is supported, got "
                f"factor {config.subsampling_factor}, kernel and stride {kernel}"
            )
        return cls(
            frames=frames,
            num_mel_bins=config.num_mel_bins,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            conv_kernel_size=config.conv_kernel_size,
            subsampling_conv_channels=config.subsampling_conv_channels,
            ring_blocks=ring_blocks,
        )

    @property
    def head_dim(self) -> int:
        """Return the width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def past_frames(self) -> int:
        """Return the frames of left context."""
        return self.ring_blocks * self.frames

    @property
    def subsampled_bins(self) -> tuple[int, int, int]:
        """Return the frequency bins after each subsampling convolution."""
        first = self.num_mel_bins // 2 + 1
        second = first // 2 + 1
        return first, second, second // 2 + 1

    @property
    def small_sizes(self) -> list[int]:
        """Return the sizes of the small state's parts, in order; see the module's docstring."""
        first, second, _ = self.subsampled_bins
        channels = self.subsampling_conv_channels
        conv = (self.conv_kernel_size - 1) * self.hidden_size
        sizes = [1, 1, self.num_mel_bins, channels * first, channels * second]
        sizes += [conv] * self.num_hidden_layers
        return [*sizes, -sum(sizes) % self.row_width]

    @property
    def row_width(self) -> int:
        """Return the number of keys (or values) of one head and one chunk."""
        return self.frames * self.head_dim

    @property
    def small_rows(self) -> int:
        """Return the number of rows that hold the small state."""
        return sum(self.small_sizes) // self.row_width

    def first_ring_row(self, layer: int) -> int:
        """Return the row at which the keys of a layer begin; its values follow."""
        return self.small_rows + 2 * layer * self.num_attention_heads * self.ring_blocks

    @property
    def layout(self) -> StateLayout:
        """Return rows and width of the whole state."""
        rings = 2 * self.num_hidden_layers * self.num_attention_heads
        return StateLayout(
            rows=self.small_rows + rings * self.ring_blocks,
            width=self.row_width,
            rings=rings,
            ring_blocks=self.ring_blocks,
        )


@dataclass(frozen=True)
class _Context:
    """Values of the chunk that all layers share."""

    distance: Tensor
    """int64 [B, H, T, past + T]: row of the relative-position table for each query and key."""
    mask: Tensor
    """float32 [B, 1, 1, past + T]: 0 for valid keys, else `_MASKED`."""
    adapters: Adapters | None


class Encoder(Stage):
    """MEL [B, 8T, n_mels], MEL_LENGTH int32 [B, 1] -> ENCODED [B, T, D], ENCODED_LENGTH [B, 1].

    D is the width of the joint network: the projection after the encoder belongs to this stage.

    Args:
        model: `NemotronAsrStreamingForRNNT`, in float32.
        frames: T, encoder frames per chunk.
    """

    def __init__(self, model: Any, frames: int) -> None:
        super().__init__()
        self.dims = EncoderDims.from_config(model.config.encoder_config, frames)
        self.layout = self.dims.layout
        self.subsampling = _Subsampling(model.encoder, self.dims)
        positions = _relative_positions(model.encoder, self.dims)
        self.layers = nn.ModuleList(
            Layer(layer, self.dims, positions, f"encoder.layers.{index}")
            for index, layer in enumerate(model.encoder.layers)
        )
        self.projector = model.encoder_projector

    def projections(self) -> tuple[Projection, ...]:
        """See `AdaptedModule.projections`."""
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]
        found = [projection for layer in layers for projection in layer.projections()]
        last = Projection.of(self.projector, PROJECTOR, frames=self.dims.frames)
        return *found, last

    def step(
        self, *inputs: Tensor, state: State, adapters: Adapters | None = None
    ) -> tuple[tuple[Tensor, ...], Update]:
        """Encode one chunk; see the class and module for shapes and state."""
        mel, mel_length = inputs
        small = state.read(0, self.dims.small_rows).flatten(1)
        position, filled, *tails, _ = small.split(self.dims.small_sizes, dim=1)
        position, filled = position.float(), filled.float()
        encoded_length = self.encoded_length(mel_length)
        hidden, *stem_tails = self.subsampling(mel, mel_length, filled > 0, *tails[:3])
        context = self._context(position, filled, encoded_length, adapters)
        conv_tails: list[Tensor] = []
        new_rows: list[Tensor] = []
        for index, (layer, tail) in enumerate(zip(self.layers, tails[3:], strict=True)):
            hidden, tail, keys_and_values = layer(hidden, tail, self._past(state, index), context)
            conv_tails.append(tail)
            new_rows.append(keys_and_values)
        hidden = in_type_of(self.projector, hidden)
        encoded = project(self.projector, hidden, adapters, PROJECTOR).float()
        encoded = encoded.reshape(-1, self.dims.frames, self._encoded_size)
        counters = (x.to(small.dtype) for x in self._next_counters(position, filled))
        padding = torch.zeros_like(small[:, : self.dims.small_sizes[-1]])
        next_small = torch.cat([*counters, *stem_tails, *conv_tails, padding], dim=1)
        update = self._update(position, next_small, new_rows)
        return (encoded, encoded_length), update

    @property
    def _encoded_size(self) -> int:
        return self.projector.out_features

    @staticmethod
    def encoded_length(mel_length: Tensor) -> Tensor:
        """Return the valid encoder frames of chunks with `mel_length` valid mel frames."""
        return _subsampled(_subsampled(_subsampled(mel_length)))

    def _past(self, state: State, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of the ring: two [B, H, past, head_dim]."""
        dims = self.dims
        count = dims.num_attention_heads * dims.ring_blocks
        shape = (-1, dims.num_attention_heads, dims.past_frames, dims.head_dim)
        start = dims.first_ring_row(layer)
        keys, values = state.read(start, count), state.read(start + count, count)
        return keys.reshape(shape), values.reshape(shape)

    def _context(
        self, position: Tensor, filled: Tensor, encoded_length: Tensor, adapters: Adapters | None
    ) -> _Context:
        """Return relative distance and mask of every key; a ring block of age 1 is the newest."""
        dims = self.dims
        block = torch.arange(dims.ring_blocks, device=position.device)
        behind = position.to(torch.int64) - 1 - block
        age = torch.where(behind < 0, behind + dims.ring_blocks, behind) + 1
        frame = torch.arange(dims.frames, device=position.device)
        past_offset = (age[..., None] * dims.frames - frame).flatten(1)
        new_offset = (-frame).expand(position.shape[0], -1)
        offset = torch.cat([past_offset, new_offset], dim=1)
        distance = offset[:, None, None] + frame[:, None] + (dims.frames - 1)
        past_valid = (age <= filled).repeat_interleave(dims.frames, dim=1)
        valid = torch.cat([past_valid, frame < encoded_length], dim=1)
        mask = torch.where(valid, 0.0, _MASKED)
        distance = distance.expand(-1, dims.num_attention_heads, -1, -1)
        return _Context(distance=distance, mask=mask[:, None, None], adapters=adapters)

    def _next_counters(self, position: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        blocks = self.dims.ring_blocks
        wrapped = torch.where(position + 1 >= blocks, torch.zeros_like(position), position + 1)
        return wrapped, (filled + 1).clamp(max=blocks)

    def _update(self, position: Tensor, small: Tensor, new_rows: list[Tensor]) -> Update:
        """Return the update of the small rows, and of the block of this chunk in each ring."""
        dims = self.dims
        small_rows = torch.arange(dims.small_rows, device=small.device)
        rings = 2 * dims.num_hidden_layers * dims.num_attention_heads
        ring_rows = dims.small_rows + torch.arange(rings, device=small.device) * dims.ring_blocks
        rows = [
            small_rows.expand(small.shape[0], -1),
            ring_rows + position.to(torch.int64),
        ]
        values = [small.reshape(-1, dims.small_rows, dims.row_width), *new_rows]
        return Update(rows=torch.cat(rows, dim=1), values=torch.cat(values, dim=1))


class _Subsampling(nn.Module):
    """Three causal stride-2 convolutions and a projection: 8 mel frames become one frame."""

    def __init__(self, encoder: Any, dims: EncoderDims) -> None:
        super().__init__()
        self.dims = dims
        stem = encoder.subsampling
        self.convolutions = nn.ModuleList([stem.conv_in, *(x.depthwise_conv for x in stem.layers)])
        self.pointwise = nn.ModuleList(x.pointwise_conv for x in stem.layers)
        self.linear = scaled(stem.linear, encoder.input_scale)

    def forward(
        self, mel: Tensor, mel_length: Tensor, started: Tensor, *tails: Tensor
    ) -> tuple[Tensor, ...]:
        """Return frames [B * T, D] of MEL [B, 8T, n_mels], and each convolution's last input."""
        batch = mel.shape[0]
        hidden = in_type_of(self.linear, mel)[:, None]
        length, not_in_reference = mel_length, SUBSAMPLING - 1
        next_tails: list[Tensor] = []
        for index, convolution in enumerate(self.convolutions):
            next_tails.append(hidden[:, :, -1].flatten(1))
            tail = tails[index].reshape(batch, hidden.shape[1], 1, hidden.shape[3])
            hidden = _strided(convolution, torch.cat([tail, hidden], dim=2))
            if index > 0:
                hidden = self.pointwise[index - 1](hidden)
            length, not_in_reference = _subsampled(length), not_in_reference // 2
            hidden = functional.relu(_keep_frames(hidden, length, started, not_in_reference))
        frames = hidden.transpose(1, 2).reshape(batch * self.dims.frames, -1)
        return self.linear(frames).float(), *next_tails


def _strided(convolution: Any, frames: Tensor) -> Tensor:
    """Apply `convolution` to frames with their left context; pad frequency only."""
    padded = functional.pad(frames, (2, 1))
    return functional.conv2d(
        padded, convolution.weight, convolution.bias, stride=2, groups=convolution.groups
    )


def _keep_frames(frames: Tensor, length: Tensor, started: Tensor, skipped: int) -> Tensor:
    """Zero the frames past `length` and, in a first chunk, the `skipped` before the audio."""
    frame = torch.arange(frames.shape[2], dtype=torch.int32, device=frames.device)
    keep = (frame < length) & (started | (frame >= skipped))
    return frames * keep.to(frames.dtype)[:, None, :, None]


def _subsampled(length: Tensor) -> Tensor:
    """Return the valid frames of a chunk after one stride-2 convolution.

    The reference counts `x // 2 + 1` over the whole utterance; with 7, 3 and 1 frames in front of
    the first chunk that is `(x + 1) // 2` within any chunk.
    """
    return whole_division(length + 1, 2)


class Layer(nn.Module):
    """One Conformer block: half feed-forward, attention, convolution, half feed-forward."""

    def __init__(self, layer: Any, dims: EncoderDims, positions: Tensor, name: str) -> None:
        super().__init__()
        self.feed_forward1 = FeedForward(
            layer.norm_feed_forward1, layer.feed_forward1, f"{name}.feed_forward1"
        )
        self.norm_self_att = layer.norm_self_att
        self.attention = Attention(layer.self_attn, dims, positions, f"{name}.self_attn")
        self.norm_conv = layer.norm_conv
        self.convolution = Convolution(layer.conv, dims)
        self.feed_forward2 = FeedForward(
            layer.norm_feed_forward2, layer.feed_forward2, f"{name}.feed_forward2"
        )
        self.norm_out = layer.norm_out

    def forward(
        self, hidden: Tensor, tail: Tensor, past: tuple[Tensor, Tensor], context: _Context
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B * T, D] -> the same, next convolution tail, new ring rows [B, 2H, T * head_dim].

        The residual stream `hidden` is float32: it grows with depth, and LayerNorm squares it.
        """
        hidden = hidden + self.feed_forward1(hidden, context.adapters)
        attended, new_rows = self.attention(self.norm_self_att(hidden), past, context)
        hidden = hidden + attended
        convolved, tail = self.convolution(self.norm_conv(hidden), tail)
        hidden = hidden + convolved
        hidden = hidden + self.feed_forward2(hidden, context.adapters)
        return self.norm_out(hidden), tail, new_rows

    def projections(self) -> list[Projection]:
        """Return the layers that adapters change."""
        frames = self.attention.dims.frames
        return [
            *self.feed_forward1.projections(frames),
            *self.attention.projections(),
            *self.feed_forward2.projections(frames),
        ]


class Attention(nn.Module):
    """Multi-head attention with Transformer-XL relative positions over the ring and the chunk."""

    def __init__(self, attention: Any, dims: EncoderDims, positions: Tensor, name: str) -> None:
        super().__init__()
        self.dims = dims
        self.projected = tuple(f"{name}.{part}_proj" for part in "qkv")
        self.combined = f"{name}.o_proj"
        heads, head_dim = dims.num_attention_heads, dims.head_dim
        query = scaled(attention.q_proj, head_dim**-0.5)
        self.projection = joined([query, attention.k_proj, attention.v_proj])
        scale = head_dim**-0.5
        self.bias_u = nn.Parameter(attention.bias_u.detach() * scale)
        self.bias_v = nn.Parameter(attention.bias_v.detach() * scale)
        keys = attention.relative_k_proj(positions).reshape(-1, heads, head_dim)
        self.position_keys = nn.Buffer(keys.permute(1, 2, 0).detach().contiguous())
        self.output = attention.o_proj

    def forward(
        self, hidden: Tensor, past: tuple[Tensor, Tensor], context: _Context
    ) -> tuple[Tensor, Tensor]:
        """[B * T, D] -> the same shape and the new ring rows [B, 2H, T * head_dim]."""
        dims = self.dims
        heads, shape = dims.num_attention_heads, (-1, dims.frames, 3, dims.num_attention_heads)
        hidden = in_type_of(self.projection, hidden)
        projected = project(self.projection, hidden, context.adapters, self.projected[0])
        projected = projected.reshape(*shape, dims.head_dim)
        query, keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        past_keys, past_values = past
        content = query + self.bias_u[:, None]
        content_scores = torch.cat(
            [content @ past_keys.transpose(2, 3), content @ keys.transpose(2, 3)], dim=3
        )
        by_distance = (query + self.bias_v[:, None]) @ self.position_keys
        position_scores = by_distance.gather(3, context.distance)
        scores = content_scores.float() + position_scores.float() + context.mask
        attention = scores.softmax(dim=3).to(values.dtype)
        past_weights, weights = attention.split([dims.past_frames, dims.frames], dim=3)
        attended = past_weights @ past_values + weights @ values
        new_rows = torch.stack([keys, values], dim=1).reshape(-1, 2 * heads, dims.row_width)
        flat = attended.transpose(1, 2).reshape(-1, dims.hidden_size)
        combined = project(self.output, flat, context.adapters, self.combined)
        return combined.float(), new_rows

    def projections(self) -> list[Projection]:
        """Return the layers that adapters change."""
        frames, scales = self.dims.frames, [self.dims.head_dim**-0.5, 1.0, 1.0]
        return [
            Projection.of(self.projection, *self.projected, frames=frames, factors=scales),
            Projection.of(self.output, self.combined, frames=frames),
        ]


class Convolution(nn.Module):
    """Gated pointwise, causal depthwise, norm, pointwise; the pointwise ones are linear layers."""

    def __init__(self, convolution: Any, dims: EncoderDims) -> None:
        super().__init__()
        self.dims = dims
        self.pointwise1 = as_linear(convolution.pointwise_conv1)
        depthwise = convolution.depthwise_conv
        self.depthwise_weight = depthwise.weight
        self.depthwise_bias: nn.Parameter | None = depthwise.bias
        self.norm = convolution.norm
        self.activation = convolution.activation
        self.pointwise2 = as_linear(convolution.pointwise_conv2)

    def forward(self, hidden: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """[B * T, D] and tail [B, (kernel - 1) * D] -> the same two."""
        dims = self.dims
        kept = dims.conv_kernel_size - 1
        gated = functional.glu(self.pointwise1(in_type_of(self.pointwise1, hidden)), dim=1)
        frames = gated.reshape(-1, dims.frames, dims.hidden_size)
        frames = torch.cat([tail.reshape(-1, kept, dims.hidden_size), frames], dim=1)
        convolved = functional.conv1d(
            frames.transpose(1, 2),
            self.depthwise_weight,
            self.depthwise_bias,
            groups=dims.hidden_size,
        )
        flat = convolved.transpose(1, 2).reshape(-1, dims.hidden_size)
        activated = in_type_of(self.pointwise2, self.activation(self.norm(flat.float())))
        return self.pointwise2(activated).float(), frames[:, -kept:].flatten(1)


def _relative_positions(encoder: Any, dims: EncoderDims) -> Tensor:
    """Return sinusoids of every distance from query to key, `1 - T` to `past + T - 1`."""
    encoding = encoder.encode_positions
    distance = torch.arange(1 - dims.frames, dims.past_frames + dims.frames).float()
    angle = distance[:, None] * encoding.inv_freq.float()
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


assert math.log2(SUBSAMPLING) == 3
