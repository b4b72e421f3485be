"""Run the encoder in training, with the weights and results of `transformers` in less CPU time.

It omits work that training does not need: projecting positions for each utterance of a batch
although they are the same for all, transposes around the 1x1 convolutions (here they are matrix
products), and caches. Dropout is applied only to the residual branches, where it costs almost
nothing. A test compares it with `model.encoder(...)`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import NemotronAsrStreamingForRNNT
from transformers.models.nemotron_asr_streaming.modeling_nemotron_asr_streaming import (
    NemotronAsrStreamingEncoder,
    NemotronAsrStreamingEncoderAttention,
    NemotronAsrStreamingEncoderBlock,
    NemotronAsrStreamingEncoderConvolutionModule,
    NemotronAsrStreamingEncoderFeedForward,
    NemotronAsrStreamingEncoderSubsamplingConv2D,
    NemotronAsrStreamingEncoderSubsamplingLayer,
)


@dataclass(frozen=True)
class Dropout:
    """Drops values with its own random generator, so that threaded replicas are reproducible."""

    share: float
    generator: torch.Generator

    def __call__(self, values: Tensor) -> Tensor:
        """Zero a share of the values and scale the others accordingly."""
        kept = torch.empty_like(values).bernoulli_(1 - self.share, generator=self.generator)
        return values * kept / (1 - self.share)


def _keep_all(values: Tensor) -> Tensor:
    return values


def encode(
    model: NemotronAsrStreamingForRNNT,
    mel: Tensor,
    mel_counts: Tensor,
    lookahead: int,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return encoder frames (B, T, joint width) and counts (B,) for mel (B, frames, bins)."""
    branch = dropout or _keep_all
    encoder: NemotronAsrStreamingEncoder = model.encoder
    mel_mask = torch.arange(mel.shape[1], device=mel.device) < mel_counts[:, None]
    subsampled = (
        subsample_by_products(encoder.subsampling, mel, mel_counts)
        if mel.is_cuda
        else encoder.subsampling(mel, mel_mask)
    )
    hidden = subsampled * encoder.input_scale
    counts = encoder_frame_counts(mel_counts)
    invisible = ~visible_frames(
        hidden.shape[1], counts, lookahead, encoder.config.sliding_window - 1
    )
    positions = encoder.encode_positions(hidden[:1])
    for layer in cast(Iterable[NemotronAsrStreamingEncoderBlock], encoder.layers):
        first = _feed_forward(layer.feed_forward1, layer.norm_feed_forward1(hidden))
        hidden = hidden + 0.5 * branch(first)
        attended = _attention(layer.self_attn, layer.norm_self_att(hidden), positions, invisible)
        hidden = hidden + branch(attended)
        hidden = hidden + branch(_convolution(layer.conv, layer.norm_conv(hidden)))
        second = _feed_forward(layer.feed_forward2, layer.norm_feed_forward2(hidden))
        hidden = hidden + 0.5 * branch(second)
        hidden = layer.norm_out(hidden)
    return model.encoder_projector(hidden), counts


def subsample_by_products(
    module: NemotronAsrStreamingEncoderSubsamplingConv2D, mel: Tensor, counts: Tensor
) -> Tensor:
    """Return `module(mel, mask)` of mel (B, frames, bins), counts (B,), by matrix products.

    On a GPU, cuDNN plans every convolution for every new batch shape, which takes far longer than
    the convolution; without cuDNN, torch processes the batch one utterance at a time. Matrix
    products and depthwise convolutions have neither problem.
    """
    stem = module.conv_in
    padded = functional.pad(mel, (*stem.freq_pad, *stem.time_pad))
    patches = padded.unfold(1, 3, 2).unfold(2, 3, 2)
    batch, frames, bins = patches.shape[:3]
    columns = patches.reshape(batch, frames * bins, 9).transpose(1, 2)
    hidden = stem.weight.view(-1, 9) @ columns + stem.bias[:, None]  # pyright: ignore[reportOptionalSubscript]
    hidden = hidden.view(batch, -1, frames, bins)
    counts = counts // 2 + 1
    hidden = functional.relu(_without_padding(hidden, counts))
    for layer in cast(Iterable[NemotronAsrStreamingEncoderSubsamplingLayer], module.layers):
        hidden = layer.depthwise_conv(hidden)
        channels = layer.pointwise_conv
        mixed = channels.weight[:, :, 0, 0] @ hidden.flatten(2)
        mixed = mixed + channels.bias[:, None]  # pyright: ignore[reportOptionalSubscript]
        counts = counts // 2 + 1
        hidden = functional.relu(_without_padding(mixed.view(hidden.shape), counts))
    return module.linear(hidden.transpose(1, 2).flatten(2))


def _without_padding(hidden: Tensor, counts: Tensor) -> Tensor:
    """Zero the frames (B, C, frames, bins) past the counts (B,)."""
    frame = torch.arange(hidden.shape[2], device=hidden.device)
    return hidden * (frame < counts[:, None])[:, None, :, None]


def encoder_frame_counts(mel_counts: Tensor) -> Tensor:
    """Return the number of frames after three causal convolutions of stride 2."""
    for _ in range(3):
        mel_counts = mel_counts // 2 + 1
    return mel_counts


def visible_frames(length: int, counts: Tensor, lookahead: int, left_context: int) -> Tensor:
    """Return the mask of visible keys, (B, 1, T, T): the query's chunk and left context.

    Padding queries attend to padding, so that no row is empty.
    """
    chunk_frames = lookahead + 1
    frame = torch.arange(length, device=counts.device)
    chunk = frame // chunk_frames
    behind = chunk[:, None] - chunk[None, :]
    in_context = (behind >= 0) & (behind <= left_context // chunk_frames)
    valid = frame < counts[:, None]
    return (in_context & (valid[:, None, :] | ~valid[:, :, None]))[:, None]


def _feed_forward(module: NemotronAsrStreamingEncoderFeedForward, hidden: Tensor) -> Tensor:
    return module.linear2(module.activation(module.linear1(hidden)))


def _attention(
    module: NemotronAsrStreamingEncoderAttention,
    hidden: Tensor,
    positions: Tensor,
    invisible: Tensor,
) -> Tensor:
    batch, length, _ = hidden.shape
    by_head = (batch, length, -1, module.head_dim)
    query = module.q_proj(hidden).view(by_head)
    key = module.k_proj(hidden).view(by_head).permute(0, 2, 3, 1)
    value = module.v_proj(hidden).view(by_head).transpose(1, 2)
    distance = module.relative_k_proj(positions[0]).view(2 * length - 1, -1, module.head_dim)
    by_content = (query + module.bias_u).transpose(1, 2) @ key
    by_distance = (query + module.bias_v).transpose(1, 2) @ distance.permute(1, 2, 0)
    scores = (by_content + _align_distances(by_distance)) * module.scaling
    weights = scores.masked_fill(invisible, float("-inf")).softmax(-1)
    return module.o_proj((weights @ value).transpose(1, 2).reshape(hidden.shape))


def _align_distances(scores: Tensor) -> Tensor:
    """(B, H, T, 2T - 1) over distances T-1 .. -(T-1) -> (B, H, T, T) over keys.

    For query i, key j is at T-1 - i + j: a view in which each row begins one column further left.
    """
    batch, heads, length, _ = scores.shape
    strides = scores.stride()
    return scores.as_strided(
        (batch, heads, length, length),
        (strides[0], strides[1], strides[2] - strides[3], strides[3]),
        scores.storage_offset() + (length - 1) * strides[3],
    )


def _convolution(module: NemotronAsrStreamingEncoderConvolutionModule, hidden: Tensor) -> Tensor:
    gated = functional.glu(_pointwise(module.pointwise_conv1, hidden), dim=-1)
    depthwise = module.depthwise_conv
    padded = functional.pad(gated, (0, 0, depthwise.left_pad, 0))
    # A (B, T, C) tensor is an image of height 1 in channels-last order, so this makes no copy.
    image = padded.transpose(1, 2).unsqueeze(2)
    mixed = functional.conv2d(
        image, depthwise.weight.unsqueeze(2), depthwise.bias, groups=depthwise.groups
    )
    normed = module.norm(mixed.squeeze(2).transpose(1, 2))
    return _pointwise(module.pointwise_conv2, module.activation(normed))


def _pointwise(convolution: torch.nn.Conv1d, hidden: Tensor) -> Tensor:
    return functional.linear(hidden, convolution.weight.squeeze(-1), convolution.bias)
