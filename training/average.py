"""Average the weights of two checkpoints, the second of which was trained from the first.

If the second training was short, a point between the two often has fewer errors than either
(Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoProcessor, NemotronAsrStreamingForRNNT

from training.model import write_checkpoint


def average(first: Path, second: Path, share: float, output: Path) -> None:
    """Write `1 - share` of the weights of `first` plus `share` of those of `second` to `output`.

    Raises:
        ValueError: the weights of the checkpoints differ in names or shapes.
    """
    model, other = (
        NemotronAsrStreamingForRNNT.from_pretrained(folder, dtype=torch.float32)
        for folder in (first, second)
    )
    added, weights = other.state_dict(), model.state_dict()
    shapes, added_shapes = ({k: v.shape for k, v in x.items()} for x in (weights, added))
    if shapes != added_shapes:
        raise ValueError(f"expected weights of the same names and shapes in {first} and {second}")
    with torch.no_grad():
        for name, weight in weights.items():
            if weight.is_floating_point():
                weight.lerp_(added[name], share)
    write_checkpoint(model, AutoProcessor.from_pretrained(first), output)
