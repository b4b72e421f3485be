"""Adapters that cannot be read or served are refused, with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from export.adapters.ensemble import write_ensemble
from export.adapters.install import install_adapter
from export.adapters.peft_format import read_adapter
from export.errors import UnsupportedCheckpoint, UnsupportedOption
from export.install import replacing
from export.options import ExportOptions, Serving
from export.spec import STREAMING

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none"}
WEIGHTS = {
    "base_model.model.joint.head.lora_A.weight": torch.ones(2, 3),
    "base_model.model.joint.head.lora_B.weight": torch.ones(4, 2),
}


def write_adapter(
    folder: Path, config: dict[str, Any] = CONFIG, weights: dict[str, torch.Tensor] = WEIGHTS
) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adaptation.json").write_text(json.dumps({"base_sha256": "0" * 64}))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def test_the_scale_is_part_of_the_matrices(tmp_path: Path) -> None:
    adapter = read_adapter(write_adapter(tmp_path / "adapter"))
    down, up = adapter.layers["joint.head"]
    assert adapter.rank == 2
    torch.testing.assert_close(up @ down, torch.full((4, 3), 6.0))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("use_rslora", True),
        ("bias", "all"),
        ("modules_to_save", ["joint"]),
        ("rank_pattern", {"joint.head": 4}),
    ],
)
def test_a_kind_that_the_stages_cannot_express(tmp_path: Path, setting: str, value: Any) -> None:
    folder = write_adapter(tmp_path / "adapter", CONFIG | {setting: value})
    with pytest.raises(UnsupportedCheckpoint, match=f"has {setting} .*training merge"):
        read_adapter(folder)


def test_other_weights_than_pairs(tmp_path: Path) -> None:
    more = WEIGHTS | {"base_model.model.encoder.norm.weight": torch.ones(3)}
    with pytest.raises(UnsupportedCheckpoint, match="holds other weights than pairs"):
        read_adapter(write_adapter(tmp_path / "adapter", weights=more))


@pytest.mark.parametrize(
    "missing", ["adapter_config.json", "adaptation.json", "adapter_model.safetensors"]
)
def test_a_folder_that_lacks_a_file(tmp_path: Path, missing: str) -> None:
    folder = write_adapter(tmp_path / "adapter")
    (folder / missing).unlink()
    with pytest.raises(UnsupportedCheckpoint, match=r"expected an adapter of .*training adapt"):
        read_adapter(folder)


@pytest.mark.parametrize("ensemble", ["clinic_asr_streaming", "clinic_asr_offline"])
def test_the_name_of_another_recognizer(tmp_path: Path, ensemble: str) -> None:
    (tmp_path / "models" / ensemble / "1").mkdir(parents=True)
    with (
        pytest.raises(UnsupportedOption, match="'clinic' of another kind"),
        replacing(tmp_path / "models") as new,
    ):
        install_adapter(tmp_path, tmp_path, new, "", "clinic", lambda step: None)


def test_the_config_of_a_base_that_was_written_by_hand(tmp_path: Path) -> None:
    base = tmp_path / "asr_streaming"
    base.mkdir()
    (base / "config.pbtxt").write_text('name: "asr_streaming" platform: "ensemble"')
    with pytest.raises(UnsupportedOption, match="in the config of asr_streaming: export it again"):
        write_ensemble(tmp_path / "new", base, STREAMING, "abc", "clinic", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "an engine of tensorrt has the weights of one model"),
        ({"precision": "int8"}, "not int8 ones"),
    ],
)
def test_exports_that_take_no_adapters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedOption, match=message):
        ExportOptions("checkpoint", serving=Serving(adapters=4), **options)
