"""Checkpoints with activations that float16 cannot hold."""

from __future__ import annotations

import copy

import torch

from export.checkpoint import Checkpoint

_ADDS_TO_THE_RESIDUAL = ("linear2", "o_proj", "pointwise_conv2", "subsampling.linear")


def louder(checkpoint: Checkpoint, factor: float) -> Checkpoint:
    """Return a checkpoint that adds `factor` times as much to the residual stream."""
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        for name, module in model.encoder.named_modules():
            if name.endswith(_ADDS_TO_THE_RESIDUAL):
                for parameter in module.parameters():
                    parameter.mul_(factor)
    return Checkpoint(f"louder-{factor}", model, checkpoint.processor, "")
