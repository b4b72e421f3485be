"""Heads for tests: random weights on the frames of a checkpoint, as files and as a reference."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from export.manifest import file_sha256

HEADS = {"size": ("", "small", "large"), "native": ("no", "yes")}
QUERIES = 2
SCORE_BOUND = 15.0


def write_random_heads(
    folder: Path, checkpoint: Path, width: int, lookahead: int, seed: int = 0, prefix: str = ""
) -> Path:
    """Write heads that give every label now and then; `prefix` tells several folders apart."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, labels in HEADS.items():
        tensors |= {
            f"{prefix}{name}.query": torch.randn(QUERIES, width, generator=generator),
            f"{prefix}{name}.query_bias": torch.randn(QUERIES, generator=generator),
            f"{prefix}{name}.weight": torch.randn(len(labels), QUERIES, width, generator=generator),
            f"{prefix}{name}.bias": torch.zeros(len(labels)),
        }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "heads.safetensors")
    description = {
        "format": 1,
        "base": str(checkpoint),
        "base_sha256": file_sha256(checkpoint / "model.safetensors"),
        "lookahead": lookahead,
        "score_bound": SCORE_BOUND,
        "heads": [
            {"name": prefix + name, "labels": list(labels)} for name, labels in HEADS.items()
        ],
    }
    (folder / "head.json").write_text(json.dumps(description))
    return folder
