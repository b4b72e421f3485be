"""Offline stages against transformers: the same tokens for any padding and batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint, load_checkpoint
from export.offline.export import Stages, build_stages, spec_of
from export.offline.reference import transcribe
from export.offline.spec import OfflineSpec
from export.options import ExportOptions
from export.recordings import load_recordings
from export.stages.offline.adapted import AdaptedStage
from export.streaming.reference import ReferenceResult
from tests.support.project import OFFLINE_KINDS, OfflineCheckpoint, OfflineReference
from tests.support.random_adapters import Layers, merged, random_layers

LONGEST_S = 12
Run = Callable[..., Any]
ADAPTED_S = 2
RANK = 4


@pytest.fixture(scope="module", params=OFFLINE_KINDS)
def checkpoint(request: pytest.FixtureRequest, offline_checkpoint: OfflineCheckpoint) -> Checkpoint:
    return load_checkpoint(str(offline_checkpoint(request.param)))


@pytest.fixture(scope="module")
def spec(checkpoint: Checkpoint) -> OfflineSpec:
    return spec_of(checkpoint, ExportOptions(checkpoint.name))


@pytest.fixture(scope="module")
def stages(checkpoint: Checkpoint, spec: OfflineSpec) -> Stages:
    return build_stages(checkpoint, spec)


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    return [recording.samples for recording in load_recordings()]


@torch.inference_mode()
def run(
    stages: Sequence[Run], utterances: list[np.ndarray], length: int, blank: int | None
) -> list[ReferenceResult]:
    """Run a batch of utterances, padded with zeros to `length` samples."""
    audio = np.stack([np.pad(samples, (0, length - len(samples))) for samples in utterances])
    lengths = torch.tensor([[len(samples)] for samples in utterances], dtype=torch.int32)
    extract, encode, decode = stages
    mel, mel_length = extract(torch.from_numpy(audio), lengths)
    encoded, encoded_length = encode(mel, mel_length)
    decoded = decode(encoded, encoded_length)
    return [
        ReferenceResult(
            mel[row, : mel_length[row]].numpy(),
            encoded[row, : encoded_length[row]].numpy(),
            *tokens_of(decoded, row, blank),
        )
        for row in range(len(utterances))
    ]


def tokens_of(decoded, row: int, blank: int | None) -> tuple[list[int], list[int]]:
    if blank is None:
        tokens, frames, _, count = decoded
        return tokens[row, : count[row]].tolist(), frames[row, : count[row]].tolist()
    labels = decoded[0][row].tolist()
    runs = [(label, next(at)) for label, at in groupby(range(len(labels)), labels.__getitem__)]
    tokens = [(label, frame) for label, frame in runs if label != blank]
    return [label for label, _ in tokens], [frame for _, frame in tokens]


def assert_same_tokens(got: list[ReferenceResult], expected: list[ReferenceResult]) -> None:
    assert [result.tokens for result in got] == [result.tokens for result in expected]
    assert [result.token_frames for result in got] == [result.token_frames for result in expected]


def test_one_batch_matches_transformers_on_each_utterance(
    checkpoint: Checkpoint,
    spec: OfflineSpec,
    stages: Stages,
    speech: list[np.ndarray],
    offline_reference: OfflineReference,
) -> None:
    expected = offline_reference(checkpoint)
    assert sum(len(result.tokens) for result in expected) > 100, "parity of tokens needs tokens"
    got = run(stages, speech, LONGEST_S * SAMPLE_RATE_HZ, spec.ctc_blank)
    assert_same_tokens(got, expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.mel.shape == theirs.mel.shape
        assert ours.encoded.shape == theirs.encoded.shape
        np.testing.assert_allclose(ours.mel, theirs.mel, atol=5e-2)
        # Most of the difference is rounding in nearly silent bins, enlarged by normalization.
        assert np.abs(ours.encoded - theirs.encoded).mean() < 1e-3


def test_padding_and_the_batch_change_nothing(
    spec: OfflineSpec, stages: Stages, speech: list[np.ndarray]
) -> None:
    samples = speech[4][: 2 * SAMPLE_RATE_HZ - 100]
    [alone] = run(stages, [samples], 2 * SAMPLE_RATE_HZ, spec.ctc_blank)
    assert alone.tokens
    for bucket in spec.buckets_samples:
        [padded] = run(stages, [samples], bucket, spec.ctc_blank)
        assert_same_tokens([padded], [alone])
        np.testing.assert_allclose(padded.encoded, alone.encoded, atol=1e-3)
    length = 4 * SAMPLE_RATE_HZ
    batch = [samples, speech[1][:length], samples[:999], speech[2][:length], samples[:0]]
    [batched, *_] = run(stages, batch, length, spec.ctc_blank)
    assert_same_tokens([batched], [alone])
    np.testing.assert_allclose(batched.encoded, alone.encoded, atol=1e-3)


def test_each_utterance_of_a_batch_has_its_own_adapter(
    checkpoint: Checkpoint, spec: OfflineSpec, stages: Stages, speech: list[np.ndarray]
) -> None:
    first, second = random_layers(stages, 1, RANK), random_layers(stages, 2, RANK - 1)
    length = ADAPTED_S * SAMPLE_RATE_HZ
    batch = [speech[0][:length], speech[1][: length - 9999], speech[2][: length - 999]]
    mixed = run(adapted(stages, [first, {}, second]), batch, length, spec.ctc_blank)
    base = run(stages, batch, length, spec.ctc_blank)
    alone = [
        run(build_stages(merged(checkpoint, layers), spec), batch, length, spec.ctc_blank)
        for layers in (first, second)
    ]
    assert_same_tokens(mixed, [alone[0][0], base[1], alone[1][2]])
    assert mixed[0].tokens != base[0].tokens
    assert mixed[2].tokens != base[2].tokens


def adapted(stages: Stages, adapters: list[Layers]) -> list[Run]:
    """The stages, for a batch in which every utterance has the adapter of its place."""
    slots = torch.arange(len(adapters))
    found: list[Run] = []
    for stage in stages:
        plan = stage.adapter_plan(RANK)
        if plan is None:
            found.append(stage)
        else:
            pool = torch.cat([plan.pack(adapter) for adapter in adapters])
            found.append(partial(AdaptedStage(stage, plan), pool=pool, slots=slots))
    return found


def test_every_end_within_a_frame(
    checkpoint: Checkpoint, spec: OfflineSpec, stages: Stages, speech: list[np.ndarray]
) -> None:
    """From the shortest utterance that the original supports, in steps of 10 ms."""
    lengths = [*range(320, 320 + 1280, 160), 9_759, 9_760]
    utterances = [speech[4][8000 : 8000 + length] for length in lengths]
    expected = transcribe(checkpoint, utterances)
    assert_same_tokens(run(stages, utterances, 32_000, spec.ctc_blank), expected)


@pytest.mark.parametrize("length", [0, 1, 159, 160, 319])
def test_too_short_utterances_are_silence_or_match_transformers(
    checkpoint: Checkpoint, spec: OfflineSpec, stages: Stages, speech: list[np.ndarray], length: int
) -> None:
    """The original normalizes fewer than two frames to NaN; here they have no tokens."""
    samples = speech[4][8000 : 8000 + length]
    [got] = run(stages, [samples], 32_000, spec.ctc_blank)
    assert np.isfinite(got.encoded).all()
    if checkpoint.streams:
        assert_same_tokens([got], transcribe(checkpoint, [samples]))
    else:
        assert got.tokens == []


@torch.inference_mode()
def test_a_padded_batch_of_transformers_has_the_same_tokens(
    checkpoint: Checkpoint,
    speech: list[np.ndarray],
    offline_reference: OfflineReference,
) -> None:
    """The reference, one unpadded utterance at a time, is therefore no special case."""
    if checkpoint.architecture != "ParakeetForCTC":
        pytest.skip("the encoder is the same, and a batch of a transducer has other bounds")
    features = checkpoint.processor.feature_extractor(
        speech, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
    )
    labels = checkpoint.model.generate(**features).tolist()
    blank = checkpoint.model.config.pad_token_id
    together = [[label for label, _ in groupby(row) if label != blank] for row in labels]
    assert together == [result.tokens for result in offline_reference(checkpoint)]


def test_durations_other_than_their_places_are_refused(
    offline_checkpoint: OfflineCheckpoint,
) -> None:
    from export.errors import UnsupportedCheckpoint

    checkpoint = load_checkpoint(str(offline_checkpoint("tdt")))
    spec = spec_of(checkpoint, ExportOptions(checkpoint.name))
    checkpoint.model.config.durations = [0, 1, 2, 4, 8]
    with pytest.raises(UnsupportedCheckpoint, match=r"\[0, 1, 2, 4, 8\]"):
        build_stages(checkpoint, spec)
