"""Run AdamW with averaged weights and gradient norm on few flat tensors instead of hundreds."""

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 2e-2
MAX_NORM = 1.0
AVERAGE_DECAY = 0.999


class FlatWeights:
    """The parameters of a module as views into one tensor of matrices and one of vectors."""

    def __init__(self, module: nn.Module) -> None:
        """Move the parameters into the flat tensors; the module works as before."""
        self.weights: list[Tensor] = []
        self.gradients: list[Tensor] = []
        parameters = list(module.parameters())
        for chosen in (
            [p for p in parameters if p.ndim > 1],
            [p for p in parameters if p.ndim <= 1],
        ):
            flat = torch.cat([p.detach().flatten() for p in chosen])
            gradient = torch.zeros_like(flat)
            begin = 0
            for parameter in chosen:
                end = begin + parameter.numel()
                parameter.data = flat[begin:end].view_as(parameter)
                parameter.grad = gradient[begin:end].view_as(parameter)
                begin = end
            self.weights.append(flat)
            self.gradients.append(gradient)


class Optimizer:
    """Updates a model and the average of its weights without waiting for the device."""

    def __init__(self, model: nn.Module, average: nn.Module) -> None:
        """Replace the weights of both by views of flat tensors."""
        self.flat, self.averaged = FlatWeights(model), FlatWeights(average)
        leaves = [nn.Parameter(weights) for weights in self.flat.weights]
        for leaf, gradient in zip(leaves, self.flat.gradients, strict=True):
            leaf.grad = gradient
        device = leaves[0].device
        self.adam = torch.optim.AdamW(
            [
                {"params": leaves[:1], "weight_decay": WEIGHT_DECAY},
                {"params": leaves[1:], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )
        self.skipped = torch.zeros((), device=device)
        self.steps = 0

    def step(self, rate: float) -> Tensor:
        """Update with the accumulated gradients and clear them; return their norm.

        Gradients that are not finite count as zero.
        """
        norm = torch.stack([g.norm() for g in self.flat.gradients]).norm()
        finite = torch.isfinite(norm)
        factor = torch.where(finite, (MAX_NORM / (norm + 1e-6)).clamp(max=1.0), 0.0)
        self.skipped += ~finite
        for gradient in self.flat.gradients:
            gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(factor)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.steps += 1
        # After only a few steps, an average is not worth keeping.
        decay = min(AVERAGE_DECAY, (1 + self.steps) / (10 + self.steps))
        for averaged, weights in zip(self.averaged.weights, self.flat.weights, strict=True):
            averaged.lerp_(weights, 1 - decay)
        for gradient in self.flat.gradients:
            gradient.zero_()
        return norm
