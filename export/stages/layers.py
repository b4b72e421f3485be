"""Build layers that both encoders share, and fold constants into weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.stages.adapters import Adapters, Projection, project

OF_FEED_FORWARD = 0.5


class FeedForward(nn.Module):
    """A half feed-forward step; the factor 0.5 is folded into the second projection."""

    def __init__(self, norm: nn.Module, feed_forward: Any, name: str) -> None:
        """Use the weights of a step; `name` is its name in the checkpoint, for adapters."""
        super().__init__()
        self.name = name
        self.norm = norm
        self.linear1 = feed_forward.linear1
        self.activation = feed_forward.activation
        self.linear2 = scaled(feed_forward.linear2, OF_FEED_FORWARD)

    def forward(self, hidden: Tensor, adapters: Adapters | None = None) -> Tensor:
        """[B * T, D] float32 -> the same."""
        normed = in_type_of(self.linear1, self.norm(hidden))
        activated = self.activation(project(self.linear1, normed, adapters, self.names[0]))
        return project(self.linear2, activated, adapters, self.names[1]).float()

    @property
    def names(self) -> tuple[str, str]:
        """Return the names of the two layers in the checkpoint."""
        return f"{self.name}.linear1", f"{self.name}.linear2"

    def projections(self, frames: int | None) -> list[Projection]:
        """Return the layers that adapters change; see `Projection.frames`."""
        first, second = self.names
        return [
            Projection.of(self.linear1, first, frames=frames),
            Projection.of(self.linear2, second, frames=frames, factors=[OF_FEED_FORWARD]),
        ]


def in_type_of(linear: nn.Linear, values: Tensor) -> Tensor:
    """Return `values` in the type of the layer's weights."""
    return values.to(linear.weight.dtype)


def scaled(linear: Any, factor: float) -> nn.Linear:
    """Return `factor * linear(x)` as one linear layer."""
    scaled = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    scaled.weight = nn.Parameter(linear.weight.detach() * factor)
    if linear.bias is not None:
        scaled.bias = nn.Parameter(linear.bias.detach() * factor)
    return scaled


def joined(linears: list[Any]) -> nn.Linear:
    """Return several projections of one input as one linear layer."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    has_bias = linears[0].bias is not None
    joined = nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias)
    joined.weight = nn.Parameter(weight)
    if has_bias:
        joined.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]))
    return joined


def as_linear(convolution: Any) -> nn.Linear:
    """Return a 1x1 convolution over time as a linear layer."""
    has_bias = convolution.bias is not None
    linear = nn.Linear(convolution.in_channels, convolution.out_channels, bias=has_bias)
    linear.weight = nn.Parameter(convolution.weight.detach()[:, :, 0])
    if has_bias:
        linear.bias = convolution.bias
    return linear
