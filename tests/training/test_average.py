"""The average of two checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, NemotronAsrStreamingForRNNT

from training.average import average
from training.model import write_checkpoint


def test_weights_lie_between_those_of_the_two(random_checkpoint: Path, tmp_path: Path) -> None:
    first = NemotronAsrStreamingForRNNT.from_pretrained(random_checkpoint, dtype=torch.float32)
    second = NemotronAsrStreamingForRNNT.from_pretrained(random_checkpoint, dtype=torch.float32)
    with torch.no_grad():
        for weight in second.parameters():
            weight += 1.0
    processor = AutoProcessor.from_pretrained(random_checkpoint)
    write_checkpoint(second, processor, tmp_path / "second")
    average(random_checkpoint, tmp_path / "second", 0.25, tmp_path / "average")
    found = NemotronAsrStreamingForRNNT.from_pretrained(tmp_path / "average", dtype=torch.float32)
    for before, after in zip(first.parameters(), found.parameters(), strict=True):
        assert (after - before).mean().item() == pytest.approx(0.25, abs=2e-3)


def test_checkpoints_of_other_shapes_are_refused(random_checkpoint: Path, tmp_path: Path) -> None:
    first = NemotronAsrStreamingForRNNT.from_pretrained(random_checkpoint, dtype=torch.float32)
    config: Any = copy.deepcopy(first.config)
    config.encoder_config.num_hidden_layers -= 1
    other = NemotronAsrStreamingForRNNT(config)
    write_checkpoint(other, AutoProcessor.from_pretrained(random_checkpoint), tmp_path / "other")
    with pytest.raises(ValueError, match="same names and shapes"):
        average(random_checkpoint, tmp_path / "other", 0.25, tmp_path / "average")
