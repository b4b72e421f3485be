"""Programs of torch: what is left out of their files changes nothing that they compute."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from export.formats.parts import BATCH, Part
from export.formats.torch_file import save_part


class _Shifted(nn.Module):
    def forward(self, *arguments: Tensor) -> tuple[Tensor]:
        [values] = arguments
        first, *_ = (values[:, 1:] * 2).split(3, dim=1)
        return (first + values.sum(),)


def test_a_program_is_read_without_the_formulas_of_its_shapes(tmp_path: Path) -> None:
    part = Part("model", _Shifted(), (torch.ones(2, 7),), (BATCH,))
    save_part(part, tmp_path, {})
    program = torch.export.load(tmp_path / "model.pt2")
    shapes = [
        node.meta["val"].shape
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), Tensor) and node.op == "call_function"
    ]
    *inner, outer = shapes
    assert len(inner) > 2
    assert all(set(shape) <= {1} for shape in inner)
    assert outer[1] == 3
    values = torch.arange(35.0).view(5, 7)
    [got] = program.module()(values)
    assert torch.equal(got, _Shifted()(values)[0])
