"""Streams with adapters, without, and with different ones, in one batch of the stages."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from export.checkpoint import load_checkpoint
from export.stages.adapters import AdapterPlan, LowRank, PooledAdapters, Projection
from export.stages.decoder import Decoder
from export.stages.encoder import Encoder
from export.stages.fused_encoder import FusedEncoder
from export.stages.looped import AfterLoop, BeforeLoop, Rounds
from export.stages.state import Stage
from tests.support.random_adapters import random_layers

FRAMES, RANK = 4, 4
Adapter = dict[str, LowRank]
MakeEncoder = Callable[[Any], Encoder]


@pytest.fixture(scope="module")
def model(random_checkpoint: Path) -> Any:
    return load_checkpoint(str(random_checkpoint)).model


def stages_of(model: Any, make_encoder: MakeEncoder) -> list[Stage]:
    return [make_encoder(model), Decoder(model, FRAMES)]


def plain(model: Any) -> Encoder:
    return Encoder(model, FRAMES)


def fused(model: Any) -> Encoder:
    return FusedEncoder(Encoder(model, FRAMES))


@torch.no_grad()
def merged(model: Any, adapter: Adapter) -> Any:
    copied = copy.deepcopy(model)
    layers = dict(copied.named_modules())
    for name, (down, up) in adapter.items():
        layers[name].weight += up @ down
    return copied


@torch.no_grad()
def tokens_of(stages: list[Stage], adapters: list[Adapter | None] | None = None) -> Tensor:
    """The tokens of three streams of noise, each of which may have an adapter."""
    *before, decoder = stages
    assert isinstance(decoder, Decoder)
    rank = RANK if adapters is not None else 0
    opening = BeforeLoop(before, decoder, rank).eval()
    rounds, closing = Rounds(decoder, rank), AfterLoop(decoder, rank)
    encoder_pool, decoder_pool = (
        torch.zeros(3 * stage.layout.rows, stage.layout.width) for stage in stages
    )
    slots = torch.tensor([2, 0, 1])
    packed = pack(stages, adapters) if adapters is not None else []
    tokens: list[Tensor] = []
    random = torch.Generator().manual_seed(0)
    for _ in range(6):
        mel = torch.randn(3, 8 * FRAMES, 80, generator=random)
        length = torch.full((3, 1), 8 * FRAMES, dtype=torch.int32)
        *values, update, rows = opening(mel, length, encoder_pool, decoder_pool, slots, *packed)
        encoder_pool[slots[:, None] * stages[0].layout.rows + rows] = update
        pending = True
        while pending:
            *loop_state, pending = rounds(*values)
            values[-len(loop_state) :] = loop_state
        found, *_, update, rows = closing(*values)
        decoder_pool[slots[:, None] + rows] = update
        tokens.append(found)
    return torch.cat(tokens, dim=1)


def pack(stages: list[Stage], adapters: list[Adapter | None]) -> list[Tensor]:
    """The pools of a batch in which every stream has the adapter of its place."""
    plans = [plan for stage in stages if (plan := stage.adapter_plan(RANK))]
    pools = [torch.cat([plan.pack(adapter or {}) for adapter in adapters]) for plan in plans]
    return [*pools, torch.arange(len(adapters))]


@pytest.mark.parametrize("make_encoder", [plain, fused])
def test_each_stream_of_a_batch_has_its_own_adapter(model: Any, make_encoder: MakeEncoder) -> None:
    stages = stages_of(model, make_encoder)
    first, second = random_layers(stages, 1, RANK), random_layers(stages, 2, RANK - 1)
    mixed = tokens_of(stages, [first, None, second])
    base = tokens_of(stages)
    alone = [tokens_of(stages_of(merged(model, a), make_encoder)) for a in (first, second)]
    assert torch.equal(mixed[0], alone[0][0])
    assert torch.equal(mixed[1], base[1])
    assert torch.equal(mixed[2], alone[1][2])
    assert not torch.equal(mixed[0], base[0])
    assert not torch.equal(mixed[2], base[2])
    assert (mixed >= 0).sum() > 30


def test_what_an_adapter_adapts_is_served(model: Any) -> None:
    """All layers that a training adapts are layers of the stages, joined or scaled as they are."""
    from training.adapt.base import ADAPTED

    stages = stages_of(model, plain)
    served = {n for stage in stages for p in stage.projections() for n in p.names}
    adapted = {name for name, _ in model.named_modules() if re.fullmatch(ADAPTED, name)}
    assert served == adapted


def test_matrices_that_fill_no_whole_row() -> None:
    """A head with 65 outputs of rank 2: 130 values in rows of 128."""
    head = Projection.of(nn.Linear(64, 65, bias=False), "head", frames=1)
    plan = AdapterPlan([head], rank=2)
    assert (plan.layout.rows, plan.layout.width) == (3, 128)
    down, up = torch.randn(1, 64), torch.randn(65, 1)
    pool = torch.cat([torch.randn(3, 128), plan.pack({"head": (down, up)})])
    values = torch.randn(2, 64)
    change = PooledAdapters(plan, pool, torch.tensor([1, 1])).change("head", values)
    torch.testing.assert_close(change, values @ down.T @ up.T)
