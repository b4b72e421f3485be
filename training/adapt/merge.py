"""Merge an adapter with the checkpoint that it was trained on."""

import json
from pathlib import Path
from typing import Any, cast

from peft import PeftModel

from training.adapt.base import load_base, merged
from training.adapt.errors import CannotAdapt
from training.adapt.settings import sha256_of
from training.model import write_checkpoint

RECORD = "adaptation.json"


def merge(checkpoint: Path, adapter: Path, output: Path) -> None:
    """Write `checkpoint` with `adapter` merged into its weights as a checkpoint of its own.

    Raises:
        CannotAdapt: `adapter` is not an adapter, it was trained on other weights, or the output
            exists.
    """
    if output.exists():
        raise CannotAdapt(f"{output} exists: expected a new folder (--output)")
    base = load_base(checkpoint)
    _require_base(checkpoint, adapter)
    adapted = PeftModel.from_pretrained(cast(Any, base.model), str(adapter))
    write_checkpoint(merged(adapted), base.processor, output)


def _require_base(checkpoint: Path, adapter: Path) -> None:
    try:
        expected = json.loads((adapter / RECORD).read_text())["base_sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise CannotAdapt(
            f"expected an adapter of `python -m training adapt` in {adapter}: {error}"
        ) from error
    found = sha256_of(checkpoint / "model.safetensors")
    if found != expected:
        raise CannotAdapt(
            f"{adapter} was trained on weights with sha256 {expected[:12]}, those of "
            f"{checkpoint} have {found[:12]}: adapt this checkpoint anew"
        )
