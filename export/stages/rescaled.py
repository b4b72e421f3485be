"""Compute a half-precision linear layer whose output would overflow half precision.

The largest float16 is 65504. The weights of such a layer are divided by a power of two, and its
output is multiplied by it in float32. Only layers whose output the stage converts to float32 can be
replaced: those that add to the residual stream, and those at the end of a stage.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

RESCALABLE = (
    "linear2",
    "attention.output",
    "pointwise2",
    "subsampling.linear",
    "projector",
    "head",
)
"""Suffixes of the names of modules whose output is converted to float32."""


class RescaledLinear(nn.Linear):
    """A linear layer with the weights divided by `factor`, and a float32 output."""

    def __init__(self, linear: nn.Linear, factor: float) -> None:
        # Declared as a parameter, but None in layers without a bias.
        bias: Any = linear.bias
        super().__init__(linear.in_features, linear.out_features, bias=bias is not None)
        self.factor = factor
        self.weight = nn.Parameter(linear.weight.detach() / factor)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach() / factor)

    def forward(self, input: Tensor) -> Tensor:
        """[N, in] of the weights' type -> float32 [N, out]."""
        return super().forward(input).float() * self.factor


def rescalable(stage: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of a stage that can be replaced, by name."""
    return {
        name: module
        for name, module in stage.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(RESCALABLE)
    }
