"""Layers that both fused encoders share, made of few, large operations."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from export.stages.adapters import Adapters, project
from export.stages.layers import FeedForward
from server.backends.earshot.earshot_runtime import fused_ops


class Branch(nn.Module):
    """A feed-forward step without its norm."""

    def __init__(self, feed_forward: FeedForward) -> None:
        super().__init__()
        self.linear1, self.linear2 = feed_forward.linear1, feed_forward.linear2
        self.names = feed_forward.names
        self.activation = feed_forward.activation

    def forward(self, normed: Tensor, adapters: Adapters | None = None) -> Tensor:
        """[B * T, D] -> the same."""
        activated = self.activation(project(self.linear1, normed, adapters, self.names[0]))
        return project(self.linear2, activated, adapters, self.names[1])


def two_queries(attention: Any) -> nn.Linear:
    """Return the projection to queries by content and by position, keys and values.

    Queries are projected twice, with the content bias and with the position bias, which saves two
    passes.
    """
    query, key, value = _weights_and_biases(attention.projection)
    by_content = (query[0], query[1] + attention.bias_u.detach().flatten())
    by_position = (query[0], query[1] + attention.bias_v.detach().flatten())
    weights, biases = zip(by_content, by_position, key, value, strict=True)
    weight = torch.cat(weights)
    joined = nn.Linear(weight.shape[1], weight.shape[0])
    joined.weight = nn.Parameter(weight)
    joined.bias = nn.Parameter(torch.cat(biases))
    return joined


def _weights_and_biases(projection: nn.Linear) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of queries, keys and values; a missing bias is zero."""
    weight = projection.weight.detach()
    found = dict(projection.named_parameters()).get("bias")
    bias = torch.zeros_like(weight[:, 0]) if found is None else found.detach()
    return list(zip(weight.chunk(3), bias.chunk(3), strict=True))


def add(
    hidden: Tensor, branch: Tensor, dtype: torch.dtype, *norms: nn.Module
) -> tuple[Tensor, Tensor]:
    """Return the residual stream plus a branch, and the same normalized in `dtype`."""
    layer_norms = [cast(nn.LayerNorm, norm) for norm in norms]
    weights = [part for norm in layer_norms for part in (norm.weight, norm.bias)]
    hidden, normed = fused_ops.add_and_norm(hidden, branch, weights, layer_norms[0].eps)
    # Only a rescaled layer has a float32 output; other programs get no conversion, not even a
    # no-op.
    return hidden, normed if normed.dtype == dtype else normed.to(dtype)
