"""Random adapters of any checkpoint for whole utterances: as layers, merged, and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from export.adapters.peft_format import Adapter, merge
from export.checkpoint import Checkpoint
from export.manifest import file_sha256
from export.stages.adapters import AdaptedModule, LowRank

Layers = Mapping[str, LowRank]


def random_layers(stages: Sequence[AdaptedModule], seed: int, rank: int) -> dict[str, LowRank]:
    """Return an adapter that changes every layer that the stages let adapters change."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: (
            0.2 * torch.randn(rank, projection.inputs, generator=random),
            0.2 * torch.randn(projection.outputs, rank, generator=random),
        )
        for stage in stages
        for projection in stage.projections()
        for name in projection.names
    }


def merged(checkpoint: Checkpoint, layers: Layers) -> Checkpoint:
    """Return a copy of the checkpoint with the adapter added to its weights."""
    return merge(checkpoint, Adapter(layers, 0, base_sha256=""))


def write_adapter(folder: Path, layers: Layers, checkpoint: Path, rank: int) -> Path:
    """Write an adapter in the format of peft, as trained beside the weights of `checkpoint`."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    record = {"base_sha256": file_sha256(checkpoint / "model.safetensors")}
    (folder / "adaptation.json").write_text(json.dumps(record))
    weights: dict[str, torch.Tensor] = {}
    for name, (down, up) in layers.items():
        weights[f"base_model.model.{name}.lora_A.weight"] = down
        weights[f"base_model.model.{name}.lora_B.weight"] = up
    save_file(weights, folder / "adapter_model.safetensors")
    return folder
