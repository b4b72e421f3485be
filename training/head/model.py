"""The heads' network: attention over time, then one linear layer for each head.

Each head has a few queries. A query scores every frame, the weight of a frame is the exponential of
its score, and the result of the query is the weighted mean of the frames. Scores are bounded, so
sums of weights and of weighted frames over hours stay within float32. So a stream needs only these
two sums, which start at zero, and its result after the last chunk is that of the whole recording.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SCORE_BOUND = 15.0
SMALLEST_SUM = 1e-12
"""Smaller than the weight of any frame; it makes the mean zero if there are no frames."""
DROPOUT = 0.3


class Heads(nn.Module):
    """`(frames [B, T, D], counts [B]) -> logits [B, labels]` of each head.

    Args:
        width: D.
        labels: number of labels of each head.
        queries: queries of each head.
    """

    def __init__(self, width: int, labels: Sequence[int], queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.mean = nn.Buffer(torch.zeros(width))
        self.deviation = nn.Buffer(torch.ones(width))
        self.scores = nn.Linear(width, queries * len(labels))
        self.outputs = nn.ModuleList(nn.Linear(queries * width, count) for count in labels)
        self.dropout = nn.Dropout(DROPOUT)

    def normalize_by(self, frames: Tensor) -> None:
        """Set the normalization to the mean and deviation of `frames` [N, D]."""
        self.mean.copy_(frames.mean(dim=0))
        self.deviation.copy_(frames.std(dim=0) + 1e-3)

    def forward(self, frames: Tensor, counts: Tensor, seen: Tensor | None = None) -> list[Tensor]:
        """Return the logits of each head, from the frames for which `seen` bool [B, T] is true."""
        frames = (frames - self.mean) / self.deviation
        scores = SCORE_BOUND * torch.tanh(self.scores(frames) / SCORE_BOUND)
        valid = torch.arange(frames.shape[1]) < counts[:, None]
        weights = scores.exp() * (valid if seen is None else valid & seen)[:, :, None]
        pooled = (
            weights.transpose(1, 2)
            @ frames
            / weights.sum(dim=1)[:, :, None].clamp(min=SMALLEST_SUM)
        )
        parts = self.dropout(pooled).split(self.queries, dim=1)
        return [output(part.flatten(1)) for output, part in zip(self.outputs, parts, strict=True)]

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the weights of each head by name, for frames that are not normalized.

        These are `NAME.query` [Q, D], `NAME.query_bias` [Q], `NAME.weight` [labels, Q, D] and
        `NAME.bias` [labels]. The mean of normalized frames is the normalized mean, so the
        normalization can be folded into the weights.
        """
        query = self.scores.weight / self.deviation
        query_bias = self.scores.bias - query @ self.mean
        tensors: dict[str, Tensor] = {}
        for index, (name, output) in enumerate(zip(names, self.outputs, strict=True)):
            assert isinstance(output, nn.Linear)
            own = slice(index * self.queries, (index + 1) * self.queries)
            weight = output.weight.unflatten(1, (self.queries, -1)) / self.deviation
            tensors |= {
                f"{name}.query": query[own],
                f"{name}.query_bias": query_bias[own],
                f"{name}.weight": weight,
                f"{name}.bias": output.bias - (weight * self.mean).sum(dim=(1, 2)),
            }
        return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
