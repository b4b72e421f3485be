"""A stage with state, batch by batch, without a server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.backends.earshot.earshot_runtime.adapters import AdapterSlots
from server.backends.earshot.earshot_runtime.chunks import Outcome, rounds
from server.backends.earshot.earshot_runtime.endings import FAILED, REFUSED
from server.backends.earshot.earshot_runtime.engines import open_engine
from server.backends.earshot.earshot_runtime.errors import (
    ChunkError,
    InvalidChunk,
    NotFinite,
    RunFailed,
    ServerFull,
    UnknownStream,
)
from server.backends.earshot.earshot_runtime.onnx_engine import BoundGraph, OnnxEngine
from server.backends.earshot.earshot_runtime.sequences import SequenceStage
from server.backends.earshot.earshot_runtime.slots import Slots
from server.backends.earshot.earshot_runtime.spec import StageSpec
from tests.support.toy_repository import MAX_IDLE_S, write_toy_repository
from tests.support.toy_stages import model_config, sequence_stage, summer_chunks

CAPACITY = 8


@pytest.fixture
def stage(tmp_path: Path) -> SequenceStage:
    return sequence_stage(write_toy_repository(tmp_path, max_streams=CAPACITY))


def test_a_batch_equals_its_streams_one_by_one(tmp_path: Path) -> None:
    repository = write_toy_repository(tmp_path)
    together, alone = sequence_stage(repository), sequence_stage(repository)
    rng = np.random.default_rng(3)
    streams = [int(stream) for stream in rng.integers(1, 2**63, 16)]
    for step in range(5):
        flags = "S" * 16 if step == 0 else ""
        chunks = summer_chunks(*zip(streams, rng.normal(size=16), strict=True), flags=flags)
        batch = _sums(together.process(chunks, 0.0))
        singles = [_sums(alone.process(chunks.pick([row]), 0.0))[0] for row in range(16)]
        assert batch == singles


def test_a_stream_twice_in_a_batch_runs_in_order(stage: SequenceStage) -> None:
    chunks = summer_chunks((1, 1.0), (2, 1.0), (1, 2.0), (1, 3.0), flags="SSES")
    assert _sums(stage.process(chunks, 0.0)) == [8.0, 8.0, 24.0, 24.0]
    assert stage.slots.live == 2


@pytest.mark.parametrize(
    ("streams", "expected"),
    [([], []), ([5], [[0]]), ([1, 2, 1, 1, 2], [[0, 1], [2, 4], [3]])],
)
def test_rounds(streams: list[int], expected: list[list[int]]) -> None:
    assert rounds(streams) == expected


def test_refusals_leave_the_rest_of_the_batch_alone(stage: SequenceStage) -> None:
    stage.process(summer_chunks((1, 1.0), (2, 1.0), (3, 1.0), flags="SSS"), 0.0)
    outcomes = stage.process(summer_chunks((1, np.nan), (9, 1.0), (2, 2.0), (3, 3.0)), 0.0)
    assert [type(outcome) for outcome in outcomes[:2]] == [InvalidChunk, UnknownStream]
    assert _sums(outcomes[2:]) == [24.0, 32.0]
    assert _sums(stage.process(summer_chunks((1, 1.0)), 0.0)) == [16.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1e30, r"AUDIO peaks at 1e\+30: its values must lie in -8\.\.8"),
        (-9.0, r"AUDIO peaks at 9: its values must lie in -8\.\.8"),
        (np.inf, "AUDIO peaks at inf"),
        (-np.inf, "AUDIO peaks at inf"),
        (np.nan, r"AUDIO holds NaN: its values must lie in -8\.\.8"),
    ],
)
def test_one_sample_out_of_bounds_fails_its_chunk_alone(
    stage: SequenceStage, value: float, message: str
) -> None:
    stage.process(summer_chunks((1, 1.0), (2, 1.0), (3, 1.0), flags="SSS"), 0.0)
    chunks = summer_chunks((1, 8.0), (2, 1.0), (3, -8.0))
    chunks.inputs[0][1][0, 3] = value
    first, refused, last = stage.process(chunks, 0.0)
    assert _sums([first, last]) == [72.0, -56.0]
    assert isinstance(refused, InvalidChunk)
    assert re.match(message, str(refused))
    # The refused chunk has not changed its own stream either.
    assert _sums(stage.process(summer_chunks((2, 1.0)), 0.0)) == [16.0]


def test_a_batch_of_refusals_only(stage: SequenceStage) -> None:
    outcomes = stage.process(summer_chunks((1, 1.0), (2, np.inf), flags="-S"), 0.0)
    assert [type(outcome) for outcome in outcomes] == [UnknownStream, InvalidChunk]
    assert stage.slots.live == 0


def test_end_frees_even_when_the_chunk_is_refused(stage: SequenceStage) -> None:
    stage.process(summer_chunks((1, 1.0), flags="S"), 0.0)
    stage.process(summer_chunks((1, np.nan), flags="E"), 0.0)
    assert stage.slots.live == 0


def test_a_refused_end_is_passed_on_so_that_later_stages_free_the_stream(tmp_path: Path) -> None:
    """`summer` as a stage before another one, which takes AUDIO_LENGTH."""
    repository = write_toy_repository(tmp_path)
    spec = StageSpec.from_model_config(model_config(repository, "summer"))
    spec = replace(spec, length_output="SUM")
    first = SequenceStage(spec, open_engine(repository / "summer" / "1", spec))
    first.process(summer_chunks((1, 1.0), (2, 1.0), (3, 1.0), flags="SSS"), 0.0)
    outcomes = first.process(
        summer_chunks((1, np.nan), (2, np.nan), (3, 1.0), (4, np.nan), flags="E-EB"), 0.0
    )
    assert _sums(outcomes[:1]) == [REFUSED]
    assert isinstance(outcomes[1], InvalidChunk)  # its stream goes on
    assert _sums(outcomes[2:3]) == [16.0]
    assert isinstance(outcomes[3], InvalidChunk)  # later stages have never seen it
    passed_on = summer_chunks((2, 0.0), flags="E", length=FAILED)
    assert _sums(first.process(passed_on, 0.0)) == [FAILED]
    assert first.slots.live == 0


def test_a_slot_starts_at_zero_whoever_had_it(stage: SequenceStage) -> None:
    for stream in range(1, 2 * CAPACITY):
        assert _sums(stage.process(summer_chunks((stream, 1.0), flags="B"), 0.0)) == [8.0]


def test_a_full_stage_refuses_until_a_stream_is_idle(stage: SequenceStage) -> None:
    everyone = summer_chunks(*((s, 1.0) for s in range(1, CAPACITY + 1)), flags="S" * CAPACITY)
    stage.process(everyone, 0.0)
    (refused,) = stage.process(summer_chunks((99, 1.0), flags="S"), MAX_IDLE_S)
    assert isinstance(refused, ServerFull)
    stage.process(summer_chunks((1, 1.0)), MAX_IDLE_S)
    assert _sums(stage.process(summer_chunks((99, 1.0), flags="S"), 2 * MAX_IDLE_S)) == [8.0]
    assert stage.slots.live == 2
    assert stage.slots.expired_total == CAPACITY - 1


def test_a_stream_of_the_batch_does_not_expire_for_another(stage: SequenceStage) -> None:
    everyone = summer_chunks(*((s, 1.0) for s in range(1, CAPACITY + 1)), flags="S" * CAPACITY)
    stage.process(everyone, 0.0)
    batch = summer_chunks(*((s, 1.0) for s in range(1, CAPACITY + 1)), (99, 1.0))
    batch.starts[-1] = True
    outcomes = stage.process(batch, 2 * MAX_IDLE_S)
    assert _sums(outcomes[:-1]) == [16.0] * CAPACITY
    assert isinstance(outcomes[-1], ServerFull)


def test_audio_ends_with_a_short_chunk(stage: SequenceStage) -> None:
    stage.process(summer_chunks((1, 1.0), flags="S", length=3), 0.0)
    (late,) = stage.process(summer_chunks((1, 1.0)), 0.0)
    assert isinstance(late, InvalidChunk)
    assert _sums(stage.process(summer_chunks((1, 0.0), length=0), 0.0)) == [8.0]
    # A new stream may use the slot, or the id, for full chunks again.
    assert _sums(stage.process(summer_chunks((1, 1.0), flags="S"), 0.0)) == [8.0]
    assert _sums(stage.process(summer_chunks((1, 1.0)), 0.0)) == [16.0]


def test_batches_up_to_16_are_warm_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    monkeypatch.setattr(BoundGraph, "run", lambda graph, batch: batches.append(batch))
    repository = write_toy_repository(tmp_path)
    config = repository / "summer" / "config.pbtxt"
    for max_batch in (64, 5):
        config.write_text(re.sub(r"size: \d+", f"size: {max_batch}", config.read_text(), count=1))
        sequence_stage(repository)
    assert batches == [1, 2, 4, 8, 16, 1, 2, 4]


def test_a_run_that_fails_fails_its_batch_only(
    stage: SequenceStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.process(summer_chunks((1, 1.0), (2, 1.0), (3, 1.0), flags="SSS"), 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(BoundGraph, "run", _out_of_memory)
        outcomes = stage.process(summer_chunks((1, 5.0), (2, 5.0), (4, 5.0), flags="-ES"), 0.0)
    assert all(isinstance(outcome, RunFailed) for outcome in outcomes)
    assert str(outcomes[0]).startswith("the engine failed on a batch of 3 (RuntimeError)")
    assert _sums(stage.process(summer_chunks((1, 1.0), (3, 1.0)), 0.0)) == [16.0, 16.0]
    assert 2 not in stage.slots
    assert 4 not in stage.slots


def test_outputs_that_are_not_finite_fail_alone(
    stage: SequenceStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxEngine.run

    def run_with_nan(
        engine: OnnxEngine, slots: Slots, starts: np.ndarray, adapters: AdapterSlots | None
    ) -> None:
        run(engine, slots, starts, adapters)
        engine.outputs["SUM"][1] = np.nan

    with monkeypatch.context() as patch:
        patch.setattr(OnnxEngine, "run", run_with_nan)
        chunks = summer_chunks((7, np.nan), (1, 1.0), (2, 1.0), (3, 1.0), flags="-SSS")
        _, first, damaged, last = stage.process(chunks, 0.0)
    assert _sums([first, last]) == [8.0, 8.0]
    assert isinstance(damaged, NotFinite)
    assert "SUM holds NaN or infinity" in str(damaged)
    assert 2 not in stage.slots


def _out_of_memory(graph: BoundGraph, batch: int) -> None:
    raise RuntimeError("out of memory")


def _sums(outcomes: Sequence[Outcome]) -> list[float]:
    assert not [outcome for outcome in outcomes if isinstance(outcome, ChunkError)]
    return [float(outcome[0][0, 0]) for outcome in outcomes if isinstance(outcome, tuple)]
