"""Encode whole utterances with the FastConformer (Rekesh et al. 2023, arXiv 2305.05084).

Equivalent to `ParakeetEncoder`, whose frames attend to the whole utterance, and to
`NemotronAsrStreamingEncoder`, which has causal convolutions and attention limited to chunks.
Convolutions and attention mask everything after an utterance's end, so the result depends neither
on padding nor on the rest of the batch.

As in the streaming stage, 1x1 convolutions are linear layers and constant factors are part of the
weights. Keys of the relative positions are computed once, for the longest utterance: shorter ones
use the middle of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.audio import SUBSAMPLING
from export.errors import UnsupportedOption
from export.stages.adapters import AdaptedModule, Adapters, Projection, project
from export.stages.encoder import PROJECTOR
from export.stages.layers import FeedForward, as_linear, joined, scaled
from export.stages.state import whole_division

Length = TypeVar("Length", int, Tensor)

_CONVOLUTIONS = 3
"""Convolutions of the subsampling, each of which halves the frames."""
_MASKED = -1e30
"""Added to the score of a masked key; finite, so that no row can become NaN."""


@dataclass(frozen=True)
class Causal:
    """Context of a cache-aware encoder: convolutions look back, attention covers whole chunks."""

    chunk_frames: int
    left_chunks: int


@dataclass(frozen=True)
class _Context:
    """Values of the batch that all layers share."""

    frames: Tensor
    """[T]; only its shape is used, because a number T would be fixed in the graph."""
    valid: Tensor
    """float32 [B, T, 1]: 1 for frames of the utterance, 0 after its end."""
    mask: Tensor
    """float32 [B, 1, 1 or T, T]: 0 for valid keys, else `_MASKED`."""
    adapters: Adapters | None


def encoder_frames(mel_frames: Length, causal: bool) -> Length:
    """Return the number of encoder frames of `mel_frames`, a number or a tensor."""
    for _ in range(_CONVOLUTIONS):
        mel_frames = _strided_length(mel_frames, causal)
    return mel_frames


def _strided_length(length: Length, causal: bool) -> Length:
    """Return the number of frames after one stride-2 convolution; avoid negative dividends."""
    padded = length + sum(_padding(causal)) - 1
    return whole_division(padded, 2) if isinstance(padded, Tensor) else padded // 2


def _padding(causal: bool) -> tuple[int, int]:
    """Return the zeros before and after the input of a convolution of the subsampling."""
    return (2, 1) if causal else (1, 1)


class OfflineEncoder(AdaptedModule):
    """MEL float32 [B, M, n_mels], MEL_LENGTH int32 [B, 1] -> ENCODED [B, T, D], ENCODED_LENGTH.

    D is the width of the joint network if there is one, as the projection before it belongs to this
    stage; else it is the encoder's own width.

    Args:
        model: a recognizer of `transformers` with a FastConformer encoder, in float32.
        causal: the context of a cache-aware encoder; `None` for attention to the whole utterance.
        max_mel_frames: M of the longest utterance.
    """

    def __init__(self, model: Any, causal: Causal | None, max_mel_frames: int) -> None:
        super().__init__()
        config = model.config.encoder_config
        _require_subsampling(config)
        self.causal = causal
        self.hidden_size = config.hidden_size
        self.subsampling = _Subsampling(model.encoder, causal is not None)
        self.max_frames = encoder_frames(max_mel_frames, causal is not None)
        positions = _relative_positions(model.encoder, self.max_frames)
        self.layers = nn.ModuleList(
            _Layer(layer, config, positions, causal is not None, f"encoder.layers.{index}")
            for index, layer in enumerate(model.encoder.layers)
        )
        self.projector = getattr(model, "encoder_projector", None)

    @property
    def encoded_size(self) -> int:
        """Return D, the width of ENCODED."""
        return self.hidden_size if self.projector is None else self.projector.out_features

    def projections(self) -> tuple[Projection, ...]:
        """See `AdaptedModule.projections`."""
        layers = [layer for layer in self.layers if isinstance(layer, _Layer)]
        found = [projection for layer in layers for projection in layer.projections()]
        if self.projector is not None:
            found.append(Projection.of(self.projector, PROJECTOR, frames=None))
        return tuple(found)

    def forward(
        self, mel: Tensor, mel_length: Tensor, adapters: Adapters | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch of utterances; see the class."""
        hidden = self.subsampling(mel, mel_length)
        length = encoder_frames(mel_length, self.causal is not None)
        context = self._context(hidden, length, adapters)
        shape = hidden.shape
        hidden = hidden.flatten(0, 1)
        for layer in self.layers:
            hidden = layer(hidden, context)
        if self.projector is not None:
            hidden = project(self.projector, hidden, adapters, PROJECTOR)
        return hidden.reshape(shape[0], shape[1], -1), length

    def _context(self, hidden: Tensor, length: Tensor, adapters: Adapters | None) -> _Context:
        frame = torch.arange(hidden.shape[1], dtype=torch.int32, device=hidden.device)
        valid = frame < length
        attended = valid[:, None]
        if self.causal is not None:
            chunk = whole_division(frame, self.causal.chunk_frames)
            behind = chunk[:, None] - chunk
            attended = attended & (behind >= 0) & (behind <= self.causal.left_chunks)
        mask = torch.where(attended, 0.0, _MASKED)[:, None]
        return _Context(frame, valid.to(hidden.dtype)[..., None], mask, adapters)


def _require_subsampling(config: Any) -> None:
    kernel = (config.subsampling_conv_kernel_size, config.subsampling_conv_stride)
    if config.subsampling_factor != SUBSAMPLING or kernel != (3, 2):
        raise UnsupportedOption(
            "only a subsampling factor of 8 with kernel 3 and stride 2 is supported, got factor "
            f"{config.subsampling_factor}, kernel and stride {kernel}"
        )


class _Subsampling(nn.Module):
    """Three stride-2 convolutions and a projection: 8 mel frames become one frame."""

    def __init__(self, encoder: Any, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        stem = encoder.subsampling
        if causal:
            convolutions = [stem.conv_in, *(layer.depthwise_conv for layer in stem.layers)]
            pointwise = [layer.pointwise_conv for layer in stem.layers]
        else:
            every = [layer for layer in stem.layers if isinstance(layer, nn.Conv2d)]
            convolutions = [every[0], *every[1::2]]
            pointwise = every[2::2]
        self.convolutions = nn.ModuleList(convolutions)
        self.pointwise = nn.ModuleList(pointwise)
        self.linear = scaled(stem.linear, encoder.input_scale)

    def forward(self, mel: Tensor, mel_length: Tensor) -> Tensor:
        """[B, M, n_mels] -> [B, T, D]."""
        hidden, length, padding = mel[:, None], mel_length, _padding(self.causal)
        for index, convolution in enumerate(self.convolutions):
            hidden = _strided(convolution, functional.pad(hidden, (*padding, *padding)))
            if index > 0:
                hidden = self.pointwise[index - 1](hidden)
            length = _strided_length(length, self.causal)
            hidden = functional.relu(_keep_frames(hidden, length))
        return self.linear(hidden.transpose(1, 2).flatten(2))


def _strided(convolution: Any, padded: Tensor) -> Tensor:
    """Apply `convolution` to padded frames and bins."""
    return functional.conv2d(
        padded, convolution.weight, convolution.bias, stride=2, groups=convolution.groups
    )


def _keep_frames(frames: Tensor, length: Tensor) -> Tensor:
    """Zero the frames after `length`."""
    frame = torch.arange(frames.shape[2], dtype=torch.int32, device=frames.device)
    return frames * (frame < length).to(frames.dtype)[:, None, :, None]


class _Layer(nn.Module):
    """One Conformer block: half feed-forward, attention, convolution, half feed-forward."""

    def __init__(self, layer: Any, config: Any, positions: Tensor, causal: bool, name: str) -> None:
        """Use the weights of a block; `name` is its name in the checkpoint, for adapters."""
        super().__init__()
        self.feed_forward1 = FeedForward(
            layer.norm_feed_forward1, layer.feed_forward1, f"{name}.feed_forward1"
        )
        self.norm_self_att = layer.norm_self_att
        self.attention = _Attention(layer.self_attn, config, positions, f"{name}.self_attn")
        self.norm_conv = layer.norm_conv
        self.convolution = _Convolution(layer.conv, config, causal)
        self.feed_forward2 = FeedForward(
            layer.norm_feed_forward2, layer.feed_forward2, f"{name}.feed_forward2"
        )
        self.norm_out = layer.norm_out

    def forward(self, hidden: Tensor, context: _Context) -> Tensor:
        """[B * T, D] -> the same."""
        hidden = hidden + self.feed_forward1(hidden, context.adapters)
        hidden = hidden + self.attention(self.norm_self_att(hidden), context)
        hidden = hidden + self.convolution(self.norm_conv(hidden), context)
        hidden = hidden + self.feed_forward2(hidden, context.adapters)
        return self.norm_out(hidden)

    def projections(self) -> list[Projection]:
        """Return the layers that adapters change."""
        return [
            *self.feed_forward1.projections(frames=None),
            *self.attention.projections(),
            *self.feed_forward2.projections(frames=None),
        ]


class _Attention(nn.Module):
    """Multi-head attention with Transformer-XL relative positions over the whole utterance."""

    def __init__(self, attention: Any, config: Any, positions: Tensor, name: str) -> None:
        super().__init__()
        self.projected = tuple(f"{name}.{part}_proj" for part in "qkv")
        self.combined = f"{name}.o_proj"
        self.heads = config.num_attention_heads
        self.head_dim = attention.head_dim
        scale = self.head_dim**-0.5
        query = scaled(attention.q_proj, scale)
        self.projection = joined([query, attention.k_proj, attention.v_proj])
        self.bias_u = nn.Parameter(attention.bias_u.detach() * scale)
        self.bias_v = nn.Parameter(attention.bias_v.detach() * scale)
        keys = attention.relative_k_proj(positions).reshape(-1, self.heads, self.head_dim)
        self.position_keys = nn.Buffer(keys.permute(1, 2, 0).detach().contiguous())
        self.max_frames = positions.shape[0] // 2
        self.output = attention.o_proj

    def forward(self, hidden: Tensor, context: _Context) -> Tensor:
        """[B * T, D] -> the same."""
        frames = context.frames.shape[0]
        shape = (-1, frames, 3, self.heads, self.head_dim)
        projected = project(self.projection, hidden, context.adapters, self.projected[0])
        query, keys, values = projected.reshape(shape).permute(2, 0, 3, 1, 4).unbind()
        content_scores = (query + self.bias_u[:, None]) @ keys.transpose(2, 3)
        by_distance = (query + self.bias_v[:, None]) @ self._position_keys(frames)
        scores = content_scores + _by_key(by_distance) + context.mask
        attended = scores.softmax(dim=3) @ values
        flat = attended.transpose(1, 2).reshape(-1, self.heads * self.head_dim)
        return project(self.output, flat, context.adapters, self.combined)

    def projections(self) -> list[Projection]:
        """Return the layers that adapters change."""
        scales = [self.head_dim**-0.5, 1.0, 1.0]
        return [
            Projection.of(self.projection, *self.projected, frames=None, factors=scales),
            Projection.of(self.output, self.combined, frames=None),
        ]

    def _position_keys(self, frames: int) -> Tensor:
        """Return the keys of the distances `frames - 1` down to `-frames`: [H, head_dim, 2T]."""
        return self.position_keys[:, :, self.max_frames - frames : self.max_frames + frames]


def _by_key(by_distance: Tensor) -> Tensor:
    """Return scores [B, H, T, 2T] by distance, `T - 1` first, as scores [B, H, T, T] by key.

    Key `j` of query `i` is in column `T - 1 - i + j`. Rows have one column more than there are
    distances, so re-cutting them with one column less shifts each row by one relative to the
    previous one.
    """
    batch, heads, frames, columns = by_distance.shape
    flat = by_distance.flatten(2)
    moved = flat[:, :, frames - 1 : frames - 1 + frames * (columns - 1)]
    return moved.reshape(batch, heads, frames, columns - 1)[..., :frames]


class _Convolution(nn.Module):
    """Gated pointwise, depthwise, norm, pointwise; the pointwise ones are linear layers."""

    def __init__(self, convolution: Any, config: Any, causal: bool) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        kernel_size = config.conv_kernel_size
        side = (kernel_size - 1) // 2
        self.padding = (kernel_size - 1, 0) if causal else (side, side)
        self.pointwise1 = as_linear(convolution.pointwise_conv1)
        if causal:
            depthwise = convolution.depthwise_conv
            self.weight, self.bias = depthwise.weight, depthwise.bias
            self.norm = convolution.norm
        else:
            self.weight, self.bias = _with_batch_norm(convolution.depthwise_conv, convolution.norm)
            self.norm = nn.Identity()
        self.activation = convolution.activation
        self.pointwise2 = as_linear(convolution.pointwise_conv2)

    def forward(self, hidden: Tensor, context: _Context) -> Tensor:
        """[B * T, D] -> the same."""
        gated = functional.glu(self.pointwise1(hidden), dim=1)
        frames = gated.reshape(-1, context.frames.shape[0], self.hidden_size) * context.valid
        padded = functional.pad(frames.transpose(1, 2), self.padding)
        convolved = functional.conv1d(padded, self.weight, self.bias, groups=self.hidden_size)
        flat = convolved.transpose(1, 2).reshape(-1, self.hidden_size)
        return self.pointwise2(self.activation(self.norm(flat)))


def _with_batch_norm(convolution: Any, norm: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weight and bias of a convolution followed by a batch norm with fixed statistics."""
    factor = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    bias = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
    weight = convolution.weight.detach() * factor[:, None, None]
    return nn.Parameter(weight), nn.Parameter((bias * factor + norm.bias).detach())


def _relative_positions(encoder: Any, max_frames: int) -> Tensor:
    """Return sinusoids of the distances from `max_frames - 1` down to `-max_frames`."""
    distance = torch.arange(max_frames - 1, -max_frames - 1, -1).float()
    angle = distance[:, None] * encoder.encode_positions.inv_freq.float()
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
