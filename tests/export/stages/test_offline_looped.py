"""The recognizer for torch, not yet exported: few operations, rounds over windows of frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.checkpoint import Checkpoint, load_checkpoint
from export.formats.utterance_program import utterance_parts
from export.offline.export import build_stages, spec_of
from export.offline.reference import transcribe
from export.options import ExportOptions
from export.recordings import load_recordings
from export.stages.offline.encoder import OfflineEncoder
from export.stages.offline.fused_encoder import FusedOfflineEncoder
from tests.support.project import OFFLINE_KINDS, OfflineCheckpoint
from tests.support.random_adapters import Layers, merged, random_layers

PADDED = 9 * 16_000
RANK = 4


@pytest.fixture(scope="module", params=OFFLINE_KINDS)
def checkpoint(request: pytest.FixtureRequest, offline_checkpoint: OfflineCheckpoint) -> Checkpoint:
    return load_checkpoint(str(offline_checkpoint(request.param)))


def modules_of(checkpoint: Checkpoint, precision: str = "fp32") -> list[nn.Module]:
    """Return what becomes the parts of a program."""
    spec = spec_of(checkpoint, ExportOptions("mine", runtime="torch", precision=precision))
    stages = build_stages(checkpoint, spec)
    return [part.module for part in utterance_parts(stages, spec.max_mel_frames)]


def adapted_modules_of(
    checkpoint: Checkpoint, adapters: Sequence[Layers]
) -> tuple[list[nn.Module], list[Tensor]]:
    """Return the same with adapters, and pools that hold these."""
    spec = spec_of(checkpoint, ExportOptions("mine", runtime="torch"))
    stages = build_stages(checkpoint, spec)
    plans = [plan for stage in stages if (plan := stage.adapter_plan(RANK))]
    pools = [torch.cat([plan.pack(layers) for layers in adapters]) for plan in plans]
    return [part.module for part in utterance_parts(stages, spec.max_mel_frames, RANK)], pools


def utterances() -> list[np.ndarray]:
    lengths = (PADDED - 7_000, 21_000, 50_001)
    recordings = load_recordings()
    return [r.samples[:n] for r, n in zip(recordings, lengths, strict=False)]


def batch_of(utterances: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    audio = torch.zeros(len(utterances), PADDED)
    for row, samples in zip(audio, utterances, strict=True):
        row[: len(samples)] = torch.tensor(samples)
    return audio, torch.tensor([[len(samples)] for samples in utterances], dtype=torch.int32)


@torch.inference_mode()
def run(modules: Sequence[nn.Module], inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], int]:
    """Return the outputs, and how often the rounds ran."""
    model, *loop = modules
    values: tuple[Tensor, ...] = model(*inputs)
    if not loop:
        return values, 0
    rounds, end = loop
    runs, pending = 0, True
    state: list[Tensor] = []
    while pending:
        *state, pending = rounds(*values)
        values = (*values[: -len(state)], *state)
        runs += 1
    again = rounds(*values)
    _same_tokens(end(*values), end(*values[: -len(state)], *again[:-1]))
    return end(*values), runs


def _same_tokens(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> None:
    """A round after the end changes nothing."""
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


def tokens_of(outputs: tuple[Tensor, ...], row: int, blank: int | None) -> list[tuple[int, int]]:
    if blank is None:
        tokens, frames, _, counts = (output[row].tolist() for output in outputs)
        return list(zip(tokens, frames, strict=True))[: counts[0]]
    labels = outputs[0][row].tolist()
    runs = [(label, next(run)) for label, run in groupby(range(len(labels)), labels.__getitem__)]
    return [(label, frame) for label, frame in runs if label != blank]


def test_tokens_and_frames_are_those_of_the_original(checkpoint: Checkpoint) -> None:
    spoken = utterances()
    outputs, runs = run(modules_of(checkpoint), batch_of(spoken))
    ctc = checkpoint.architecture == "ParakeetForCTC"
    blank = checkpoint.model.config.pad_token_id if ctc else None
    references = transcribe(checkpoint, spoken)
    assert sum(len(reference.tokens) for reference in references) > 20
    for row, reference in enumerate(references):
        expected = list(zip(reference.tokens, reference.token_frames, strict=True))
        assert tokens_of(outputs, row, blank) == expected
    assert ctc or runs > 1, "the test needs a loop that goes on"


def test_each_utterance_of_a_batch_has_its_own_adapter(checkpoint: Checkpoint) -> None:
    """What has none gets exactly the outputs of the modules without adapters."""
    stages = build_stages(checkpoint, spec_of(checkpoint, ExportOptions("mine", runtime="torch")))
    first, second = (random_layers(stages, seed, RANK) for seed in (1, 2))
    modules, pools = adapted_modules_of(checkpoint, [{}, first, second])
    spoken = utterances()
    mixed, _ = run(modules, (*batch_of(spoken), *pools, torch.tensor([2, 0, 1])))
    base, _ = run(modules_of(checkpoint), batch_of(spoken))
    ctc = checkpoint.architecture == "ParakeetForCTC"
    blank = checkpoint.model.config.pad_token_id if ctc else None
    for row, layers in ((0, second), (2, first)):
        [reference] = transcribe(merged(checkpoint, layers), spoken[row : row + 1])
        expected = list(zip(reference.tokens, reference.token_frames, strict=True))
        assert tokens_of(mixed, row, blank) == expected != tokens_of(base, row, blank)
    assert all(torch.equal(one[1], other[1]) for one, other in zip(mixed, base, strict=True))


def test_the_encoder_computes_what_that_of_the_other_runtimes_does(checkpoint: Checkpoint) -> None:
    spec = spec_of(checkpoint, ExportOptions("mine", runtime="torch"))
    feature_extractor, encoder, _ = build_stages(checkpoint, spec)
    assert isinstance(encoder, OfflineEncoder)
    with torch.inference_mode():
        mel = feature_extractor(*batch_of(utterances()))
        expected, length = encoder(*mel)
        got, its_length = FusedOfflineEncoder(encoder)(*mel)
    assert torch.equal(length, its_length)
    for row, frames in enumerate(length[:, 0].tolist()):
        torch.testing.assert_close(got[row, :frames], expected[row, :frames], atol=2e-3, rtol=0)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_outputs_float32_that_is_finite_beside_silence(
    checkpoint: Checkpoint, precision: str
) -> None:
    """No key of an utterance without frames is valid: its rows must not become NaN, and spread."""
    audio, lengths = batch_of(utterances())
    lengths[1] = 0
    outputs, _ = run(modules_of(checkpoint, precision), (audio, lengths))
    assert all(bool(output.isfinite().all()) for output in outputs)
    assert {output.dtype for output in outputs} == {torch.int32, torch.float32}
