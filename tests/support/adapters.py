"""Random adapters of a checkpoint, in the format that an adaptation writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from training.adapt.base import add_adapter, load_base, merged
from training.adapt.merge import RECORD
from training.adapt.settings import sha256_of


def write_random_adapter(
    checkpoint: Path, folder: Path, seed: int, rank: int = 2, size: float = 0.5
) -> Path:
    """Write an adapter that changes every layer by `size` of its weights' deviation."""
    add_adapter(load_base(checkpoint).model, rank, checkpoint).save_pretrained(str(folder))
    weights = load_file(folder / "adapter_model.safetensors")
    random = torch.Generator().manual_seed(seed)
    base = load_file(checkpoint / "model.safetensors")
    for name, weight in weights.items():
        values = torch.randn(weight.shape, generator=random)
        if name.endswith("lora_B.weight"):
            layer = name.removeprefix("base_model.model.").removesuffix("lora_B.weight")
            values *= size * float(base[f"{layer}weight"].std()) / rank**0.5 / 2
        weights[name] = values
    save_file(weights, folder / "adapter_model.safetensors")
    record = {"base_sha256": sha256_of(checkpoint / "model.safetensors")}
    (folder / RECORD).write_text(json.dumps(record))
    return folder


def write_merged(checkpoint: Path, adapter: Path, folder: Path) -> Path:
    """Write the checkpoint with the adapter merged by peft, in float32."""
    base = load_base(checkpoint)
    adapted = PeftModel.from_pretrained(cast(Any, base.model), str(adapter))
    merged(adapted).save_pretrained(str(folder))
    base.processor.save_pretrained(str(folder))
    return folder
