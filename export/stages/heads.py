"""Label a stream with classifiers on the encoder's frames, chunk after chunk.

A head has a few queries. A query scores every frame; its result is the mean of all frames so far,
weighted by the exponentials of the scores; one linear layer turns the results of all queries into
logits. Scores are bounded, so plain sums over hours stay within float32, and these sums are the
whole state of a stream: it starts with zeros, and after the last chunk the labels are those of
attention over the whole recording.

State: one row for each query, the weighted sum of the frames and then the sum of the weights. It is
float32 in every precision, because it grows with the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.stages.adapters import Adapters
from export.stages.layout import StateLayout
from export.stages.state import Stage, State, Update, all_rows

_SMALLEST_SUM = 1e-12
"""Smaller than the weight of any frame; it makes the mean zero if there are no frames."""


@dataclass(frozen=True)
class HeadWeights:
    """The weights of one head, for frames of D values."""

    query: Tensor
    """[Q, D]"""
    query_bias: Tensor
    """[Q]"""
    weight: Tensor
    """[labels, Q, D]"""
    bias: Tensor
    """[labels]"""
    score_bound: float


class Heads(Stage):
    """ENCODED [B, T, D], ENCODED_LENGTH int32 [B, 1] -> LABELS int32, LABEL_PROBS float32 [B, H].

    The outputs are the most likely label of each head for the stream so far, and its probability.
    """

    def __init__(self, heads: Sequence[HeadWeights]) -> None:
        super().__init__()
        self.queries = [len(head.query) for head in heads]
        width = heads[0].query.shape[1]
        self.layout = StateLayout(rows=sum(self.queries), width=width + 1)
        bounds = [head.query_bias.new_full((len(head.query),), head.score_bound) for head in heads]
        self.bounds = nn.Buffer(torch.cat(bounds))
        self.query = nn.Buffer(torch.cat([head.query for head in heads]).T / self.bounds)
        self.query_bias = nn.Buffer(torch.cat([head.query_bias for head in heads]) / self.bounds)
        self.weights = nn.ParameterList(head.weight.flatten(1).T for head in heads)
        self.biases = nn.ParameterList(head.bias for head in heads)

    def step(
        self, *inputs: Tensor, state: State, adapters: Adapters | None = None
    ) -> tuple[tuple[Tensor, ...], Update]:
        """Add one chunk to the sums and label the stream; see the class and module."""
        encoded, length = inputs
        scores = self.bounds * torch.tanh(encoded @ self.query + self.query_bias)
        position = torch.arange(encoded.shape[1], device=encoded.device)
        weights = scores.exp() * (position < length)[:, :, None]
        counted = torch.cat([encoded, torch.ones_like(encoded[:, :, :1])], dim=2)
        sums = state.read(0, self.layout.rows) + weights.transpose(1, 2) @ counted
        means = sums[:, :, :-1] / sums[:, :, -1:].clamp(min=_SMALLEST_SUM)
        labels, probabilities = self._labels(means)
        return (labels, probabilities), Update(all_rows(self.layout, encoded), sums)

    def _labels(self, means: Tensor) -> tuple[Tensor, Tensor]:
        best: list[tuple[Tensor, Tensor]] = []
        parts = means.split(self.queries, dim=1)
        for part, weight, bias in zip(parts, self.weights, self.biases, strict=True):
            probabilities = (part.flatten(1) @ weight + bias).softmax(dim=1)
            best.append(tuple(probabilities.max(dim=1)))
        probability, label = zip(*best, strict=True)
        return torch.stack(label, dim=1).to(torch.int32), torch.stack(probability, dim=1)
