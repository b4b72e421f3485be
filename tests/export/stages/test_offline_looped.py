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
from export.offline.export import Stages, build_stages, spec_of
from export.offline.reference import transcribe
from export.options import ExportOptions
from export.recordings import load_recordings
from export.stages.offline.encoder import OfflineEncoder
from export.stages.offline.fused_encoder import FusedOfflineEncoder
from export.stages.offline.half import half_stages
from tests.support.project import OFFLINE_KINDS, OfflineCheckpoint
from tests.support.random_adapters import Layers, merged, random_layers

PADDED = 9 * 16_000
MOST_MEL_FRAMES = PADDED // 160
RANK = 4


@pytest.fixture(scope="module", params=OFFLINE_KINDS)
def checkpoint(request: pytest.FixtureRequest, offline_checkpoint: OfflineCheckpoint) -> Checkpoint:
    return load_checkpoint(str(offline_checkpoint(request.param)))


def stages_of(checkpoint: Checkpoint, precision: str = "fp32") -> Stages:
    options = ExportOptions("mine", runtime="torch", precision=precision)
    return half_stages(build_stages(checkpoint, spec_of(checkpoint, options)), precision)


def modules_of(stages: Stages, adapter_rank: int = 0) -> list[nn.Module]:
    """Return what becomes the parts of a program."""
    return [part.module for part in utterance_parts(stages, MOST_MEL_FRAMES, adapter_rank)]


def pools_of(stages: Stages, adapters: Sequence[Layers]) -> list[Tensor]:
    """Return the pools that hold these adapters, in the precision of the stages."""
    plans = [plan for stage in stages if (plan := stage.adapter_plan(RANK))]
    return [torch.cat([plan.pack(each) for each in adapters]).to(plan.dtype) for plan in plans]


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
    outputs, runs = run(modules_of(stages_of(checkpoint)), batch_of(spoken))
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
    stages = stages_of(checkpoint)
    first, second = (random_layers(stages, seed, RANK) for seed in (1, 2))
    adapters = (*pools_of(stages, [{}, first, second]), torch.tensor([2, 0, 1]))
    spoken = utterances()
    mixed, _ = run(modules_of(stages, RANK), (*batch_of(spoken), *adapters))
    base, _ = run(modules_of(stages), batch_of(spoken))
    ctc = checkpoint.architecture == "ParakeetForCTC"
    blank = checkpoint.model.config.pad_token_id if ctc else None
    for row, layers in ((0, second), (2, first)):
        [reference] = transcribe(merged(checkpoint, layers), spoken[row : row + 1])
        expected = list(zip(reference.tokens, reference.token_frames, strict=True))
        assert tokens_of(mixed, row, blank) == expected != tokens_of(base, row, blank)
    assert all(torch.equal(one[1], other[1]) for one, other in zip(mixed, base, strict=True))


def test_the_encoder_computes_what_that_of_the_other_runtimes_does(checkpoint: Checkpoint) -> None:
    feature_extractor, encoder, _ = stages_of(checkpoint)
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
    stages = stages_of(checkpoint, precision)
    first = random_layers(stages, 1, RANK)
    adapters = (*pools_of(stages, [{}, first]), torch.tensor([0, 0, 1]))
    base, _ = run(modules_of(stages), (audio, lengths))
    mixed, _ = run(modules_of(stages, RANK), (audio, lengths, *adapters))
    for outputs in (base, mixed):
        assert all(bool(output.isfinite().all()) for output in outputs)
        assert {output.dtype for output in outputs} == {torch.int32, torch.float32}
    assert all(torch.equal(one[:2], other[:2]) for one, other in zip(base, mixed, strict=True))
    assert not torch.equal(base[0][2], mixed[0][2])
