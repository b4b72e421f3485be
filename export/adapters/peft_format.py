"""Read adapters in the format of the library `peft`, and merge them into a checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from export.checkpoint import Checkpoint
from export.errors import UnsupportedCheckpoint
from export.stages.adapters import LowRank

_CONFIG, _WEIGHTS, _RECORD = "adapter_config.json", "adapter_model.safetensors", "adaptation.json"
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_PLAIN = {
    "peft_type": ("LORA",),
    "use_dora": (False,),
    "use_rslora": (False,),
    "lora_bias": (False,),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
}
"""Settings of `LoraConfig` with the values that the stages support."""


@dataclass(frozen=True)
class Adapter:
    """An adapter and the hash of the base weights that it was trained on."""

    layers: Mapping[str, LowRank]
    """Matrices by the name of the layer in the checkpoint; the second one includes the scale."""
    rank: int
    base_sha256: str
    """Hash of the base's `model.safetensors`."""


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter of `python -m training adapt`.

    Raises:
        UnsupportedCheckpoint: it is missing or damaged, or changes more than linear layers.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        base_sha256 = json.loads((folder / _RECORD).read_text(encoding="utf-8"))["base_sha256"]
        weights = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UnsupportedCheckpoint(
            f"expected an adapter of `python -m training adapt` in {folder}, with {_CONFIG}, "
            f"{_WEIGHTS} and {_RECORD}: {error}"
        ) from error
    _require_plain(folder, config)
    scale = config["lora_alpha"] / config["r"]
    return Adapter(_layers(folder, weights, scale), config["r"], base_sha256)


def _require_plain(folder: Path, config: Mapping[str, Any]) -> None:
    for setting, values in _PLAIN.items():
        if config.get(setting, values[0]) not in values:
            raise UnsupportedCheckpoint(
                f"{folder} has {setting} {config[setting]!r}, and only {values[0]!r} can be "
                "served as an adapter; merge it (`python -m training merge`) and export the result"
            )


def _layers(folder: Path, weights: Mapping[str, torch.Tensor], scale: float) -> dict[str, LowRank]:
    names = [name.removesuffix(_DOWN) for name in weights if name.endswith(_DOWN)]
    if {name + part for name in names for part in (_DOWN, _UP)} != set(weights):
        raise UnsupportedCheckpoint(
            f"{folder} holds other weights than pairs of {_DOWN} and {_UP}; merge it "
            "(`python -m training merge`) and export the result"
        )
    return {
        name.removeprefix(_PREFIX): (
            weights[name + _DOWN].float(),
            weights[name + _UP].float() * scale,
        )
        for name in names
    }


@torch.no_grad()
def merge(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return a copy of `checkpoint` with the adapter added to its weights.

    Raises:
        UnsupportedCheckpoint: the checkpoint has no such layers.
    """
    model = copy.deepcopy(checkpoint.model)
    modules = dict(model.named_modules())
    for name, (down, up) in adapter.layers.items():
        weight = getattr(modules.get(name), "weight", None)
        if weight is None or weight.shape != (up.shape[0], down.shape[1]):
            raise UnsupportedCheckpoint(
                f"the adapter changes a layer {name} [{up.shape[0]}, {down.shape[1]}], which "
                f"{checkpoint.name} has not"
            )
        weight += up @ down
    return replace(checkpoint, model=model)
