"""Chunks of the launcher run in every stage, also in a full one, and count as nobody's stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.access import OPEN
from server.backends.earshot.earshot_runtime.canary_mark import (
    CANARY,
    SECRET_VARIABLE,
    CanaryMark,
)
from server.backends.earshot.earshot_runtime.chunks import Outcome
from server.backends.earshot.earshot_runtime.errors import InvalidChunk, ServerFull
from server.backends.earshot.earshot_runtime.sequences import SequenceStage
from server.canary import Canary
from server.launch import Triton, running
from server.local_client import open_client
from server.sent_canaries import SentCanaries
from tests.support.gated_repository import write_gated_repository
from tests.support.toy_repository import CHUNK_SAMPLES, MAX_ABS, write_toy_repository
from tests.support.toy_stages import sequence_stage, summer_chunks
from tests.support.toy_streams import Stream, constant


@pytest.fixture
def full_stage(tmp_path: Path) -> SequenceStage:
    """All of its slots are taken, by the streams 1 and 2."""
    stage = sequence_stage(write_toy_repository(tmp_path, max_streams=2))
    stage.process(summer_chunks((1, 1.0), (2, 2.0), flags="SS"), 0.0)
    return stage


def sums(outcomes: list[Outcome]) -> list[float | type[Exception]]:
    """The SUM of each chunk, in values of a whole chunk, or the type of its error."""
    return [
        type(outcome) if isinstance(outcome, Exception) else outcome[0].item() / CHUNK_SAMPLES
        for outcome in outcomes
    ]


def counted(stage: SequenceStage) -> dict[str, float]:
    """The counts of streams and chunks."""
    return {
        name.removeprefix("earshot_"): value
        for (name, _), value in stage.metrics().items()
        if value and "batch_seconds" not in name
    }


def test_a_canary_runs_in_a_full_stage_and_leaves_nothing(full_stage: SequenceStage) -> None:
    before = counted(full_stage)
    mixed = summer_chunks((7, 5.0), (1, 1.0), (8, 6.0), (9, 1.0), (2, 2.0), flags="C-CS-")
    assert sums(full_stage.process(mixed, 0.0)) == [5, 2, 6, ServerFull, 4]
    assert sums(full_stage.process(summer_chunks((7, 5.0), flags="C"), 0.0)) == [5]
    assert sums(full_stage.process(summer_chunks((1, 1.0), (2, 2.0)), 0.0)) == [3, 6]
    assert counted(full_stage) == before | {"refused_streams_total": 1}
    assert before == {"live_streams": 2, "slots": 2, "started_streams_total": 2}


def test_no_limit_refuses_a_canary(full_stage: SequenceStage) -> None:
    canary = summer_chunks((7, 5.0), flags="C")
    assert sums(full_stage.process(canary, 0.0, most_streams=0)) == [5]


def test_a_canary_that_is_refused_is_no_refused_stream(full_stage: SequenceStage) -> None:
    before = counted(full_stage)
    wrong = summer_chunks((7, 2.0 * MAX_ABS), flags="C")
    assert sums(full_stage.process(wrong, 0.0)) == [InvalidChunk]
    assert counted(full_stage) == before


@pytest.mark.parametrize(
    ("secret", "parameters", "is_canary"),
    [
        ("s3cret", {CANARY: "s3cret"}, True),
        ("s3cret", {CANARY: "guess"}, False),
        ("s3cret", {CANARY: "sécret"}, False),
        ("s3cret", {CANARY: ""}, False),
        ("s3cret", {"adapter": "court"}, False),
        ("", {CANARY: ""}, False),
    ],
)
def test_only_the_secret_makes_a_canary(
    monkeypatch: pytest.MonkeyPatch, secret: str, parameters: dict[str, str], is_canary: bool
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, secret)
    assert CanaryMark().is_on(json.dumps(parameters)) == is_canary
    assert not CanaryMark().is_on("")


def test_canaries_are_counted_by_all_who_send_them(tmp_path: Path) -> None:
    launcher, health = SentCanaries(tmp_path), SentCanaries(tmp_path)
    for number in range(20):
        launcher.add("asr_streaming", 1)
        health.add("asr_offline" if number % 2 else "asr_streaming", 2)
    assert launcher.read() == {"asr_streaming": 40, "asr_offline": 20}


def canary_of(triton: Triton, client: Any, timeout_s: float) -> Canary:
    sent = SentCanaries(triton.heartbeats)
    return Canary(client, triton.canary_secret, sent, timeout_s, triton.metrics.observe_canary)


@pytest.mark.triton
def test_a_canary_that_gets_no_slot_is_no_failure(toy_repository: Path) -> None:
    """As in Triton's TensorRT backend, which knows no slot beside those of the callers."""
    config = toy_repository / "summer" / "config.pbtxt"
    config.write_text(
        config.read_text().replace("candidate_sequences: 128", "candidate_sequences: 1")
    )
    with running(toy_repository) as triton, open_client(triton.grpc_url, OPEN) as client:
        canary = canary_of(triton, client, timeout_s=60)
        stream = Stream(client)
        stream.send(constant(1.0)).result(timeout=60)
        assert not list(canary.failures(triton.ensembles))
        assert stream.send(constant(1.0), end=True).result(timeout=60)["CHUNKS"] == 2


@pytest.mark.triton
def test_a_canary_that_waits_in_a_stage_is_a_failure(tmp_path: Path) -> None:
    """It waits for longer than it would wait for a slot."""
    gate = write_gated_repository(tmp_path)
    with running(gate.repository) as triton, open_client(triton.grpc_url, OPEN) as client:
        gate.set("closed")
        waiting = Stream(client).send(constant(1.0))
        [(ensemble, failure)] = canary_of(triton, client, timeout_s=7).failures(triton.ensembles)
        assert ensemble.name == "toy_streaming"
        assert "Deadline Exceeded" in failure
        gate.clear("closed")
        assert waiting.result(timeout=60)["TOTAL"] == 8
