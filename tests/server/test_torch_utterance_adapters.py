"""Whole utterances with adapters on torch, also in recordings that work like CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint import Checkpoint, load_checkpoint
from export.offline.export import build_stages, spec_of
from export.offline.reference import transcribe
from export.options import ExportOptions
from export.recordings import load_recordings
from export.spec import served_name
from server.backends.earshot.earshot_runtime import utterance_runs
from server.backends.earshot.earshot_runtime.errors import BadStage
from server.backends.earshot.earshot_runtime.program import Program
from server.backends.earshot.earshot_runtime.recorder import Plain
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.backends.earshot.earshot_runtime.torch_program import open_program
from server.backends.earshot.earshot_runtime.torch_utterances import TorchUtterances
from server.engine_time import stage_spec
from tests.support.cpu_recorder import OnOneDevice
from tests.support.project import (
    ADAPTER_RANK,
    OFFLINE_KINDS,
    OFFLINE_NAMES,
    ExportedOffline,
    OfflineCheckpoint,
)
from tests.support.random_adapters import merged, random_layers
from tests.support.torch_utterances import (
    LONG,
    NEEDS_GPU,
    RECORDERS,
    SHORT,
    expected_of,
    run,
    tokens_of,
)

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FIRST, SECOND = 1, 2
Tokens = list[tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """A recognizer for torch, two adapters, and what the original says with and without them."""

    folder: Path
    spec: StageSpec
    programs: tuple[Program, Program]
    """Without adapters and with them, on the CPU."""
    utterances: list[np.ndarray]
    adapters: dict[int, list[np.ndarray]]
    """Rows for each pool, by slot."""
    expected: dict[int, list[Tokens]]
    """Tokens of each utterance, by the slot of its adapter."""
    blank: int | None


def open_programs(folder: Path, spec: StageSpec, device: torch.device) -> tuple[Program, Program]:
    return open_program(folder, spec, device), open_program(folder / "adapted", spec, device)


@pytest.fixture(scope="module", params=OFFLINE_KINDS)
def case(
    request: pytest.FixtureRequest,
    adapted_offline_torch: ExportedOffline,
    offline_checkpoint: OfflineCheckpoint,
) -> Case:
    kind: str = request.param
    model = served_name(OFFLINE_NAMES.get(kind, ""), "recognizer_offline")
    repository = adapted_offline_torch(kind)
    spec = replace(
        stage_spec(repository, model),
        lengths=(SHORT, LONG),
        run_lengths=(SHORT, LONG),
        max_run_length=8 * LONG,
    )
    checkpoint = load_checkpoint(str(offline_checkpoint(kind)))
    stages = build_stages(checkpoint, spec_of(checkpoint, ExportOptions("mine", runtime="torch")))
    plans = [plan for stage in stages if (plan := stage.adapter_plan(ADAPTER_RANK))]
    layers = {slot: random_layers(stages, slot, ADAPTER_RANK) for slot in (FIRST, SECOND)}
    speech = [recording.samples for recording in load_recordings()[:4]]
    lengths = (LONG, SHORT - 500, LONG - 4_321, 16_000)
    utterances = [samples[:most] for samples, most in zip(speech, lengths, strict=True)]
    folder = repository / model / "1"
    return Case(
        folder=folder,
        spec=spec,
        programs=open_programs(folder, spec, CPU),
        utterances=utterances,
        adapters={
            slot: [plan.pack(adapter).numpy() for plan in plans] for slot, adapter in layers.items()
        },
        expected={
            0: _tokens(checkpoint, utterances),
            **{
                slot: _tokens(merged(checkpoint, adapter), utterances)
                for slot, adapter in layers.items()
            },
        },
        blank=checkpoint.model.config.pad_token_id if kind == "ctc" else None,
    )


def _tokens(checkpoint: Checkpoint, utterances: list[np.ndarray]) -> list[Tokens]:
    return [expected_of(reference) for reference in transcribe(checkpoint, utterances)]


@pytest.fixture(scope="module", params=["plain", "recorded", pytest.param("cuda", marks=NEEDS_GPU)])
def engine(request: pytest.FixtureRequest, case: Case) -> TorchUtterances:
    """Its adapters are stored after everything has been recorded."""
    device, (base, adapted) = CPU, case.programs
    if request.param == "cuda":
        device = torch.device("cuda:0")
        base, adapted = open_programs(case.folder, case.spec, device)
    if adapted.loop:
        # Too few rounds for these utterances, so that more are needed.
        adapted = replace(adapted, loop=replace(adapted.loop, runs=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utterance_runs, "_RECORDED_SHARE", 0.4)
        engine = TorchUtterances(base, case.spec, device, RECORDERS[request.param](), adapted)
    for slot, rows in case.adapters.items():
        engine.store_adapter(slot, rows)
    return engine


def assert_each_has_its_own(
    engine: TorchUtterances, case: Case, rows: list[int], slots: list[int]
) -> None:
    """Run utterances with the adapters in `slots`; compare with the original."""
    outputs = run(engine, [case.utterances[row] for row in rows], adapters=slots)
    for index, (row, slot) in enumerate(zip(rows, slots, strict=True)):
        assert tokens_of(outputs, index, case.blank) == case.expected[slot][row], (row, slot)


def test_each_utterance_of_a_batch_has_its_own(case: Case, engine: TorchUtterances) -> None:
    """Each run follows another one whose remains must do no harm."""
    assert case.expected[FIRST] != case.expected[SECOND] != case.expected[0]
    every = [0, 1, 2, 3]
    assert_each_has_its_own(engine, case, every, [FIRST, 0, SECOND, FIRST])
    assert_each_has_its_own(engine, case, every, [SECOND, FIRST, 0, SECOND])
    assert_each_has_its_own(engine, case, [1], [SECOND])
    assert_each_has_its_own(engine, case, every * 3, [0, FIRST, SECOND] * 4)


def test_without_adapters_the_outputs_are_those_of_the_base(
    case: Case, engine: TorchUtterances
) -> None:
    """To the bit, after a run with adapters; on a CPU also in the program with adapters."""
    run(engine, case.utterances, adapters=[FIRST, SECOND, FIRST, SECOND])
    without = run(engine, case.utterances)
    for row, expected in enumerate(case.expected[0]):
        assert tokens_of(without, row, case.blank) == expected
    if engine.device_name != "cpu":
        return
    plain = TorchUtterances(case.programs[0], replace(case.spec, adapters=None), CPU, Plain())
    in_base = run(plain, case.utterances)
    in_adapted = run(engine, case.utterances, adapters=[0, 0, 0, 0])
    for one, *others in zip(without, in_base, in_adapted, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


def test_an_adapter_in_the_place_of_another(case: Case, engine: TorchUtterances) -> None:
    engine.store_adapter(FIRST, case.adapters[SECOND])
    outputs = run(engine, case.utterances[:1], adapters=[FIRST])
    engine.store_adapter(FIRST, case.adapters[FIRST])
    assert tokens_of(outputs, 0, case.blank) == case.expected[SECOND][0]
    assert_each_has_its_own(engine, case, [0], [FIRST])


def test_a_program_of_another_rank_than_the_config_is_refused(case: Case) -> None:
    assert case.spec.adapters is not None
    shapes = tuple((rows, 2 * width) for rows, width in case.spec.adapters.shapes)
    spec = replace(case.spec, adapters=replace(case.spec.adapters, shapes=shapes))
    base, adapted = case.programs
    with pytest.raises(BadStage, match=r"program has adapters of the shapes .* export the"):
        TorchUtterances(base, spec, CPU, Plain(), adapted)


def test_a_program_moves_to_its_device_as_a_whole(case: Case) -> None:
    """Meta tensors take the place of a GPU's: they have no data, so nothing may read them."""
    program = open_program(case.folder / "adapted", case.spec, torch.device("meta"))
    audio = torch.empty(3, LONG, device="meta")
    lengths = torch.empty(3, 1, dtype=torch.int32, device="meta")
    pools = [
        torch.empty(3 * pool.rows, pool.width, dtype=pool.dtype, device="meta")
        for pool in program.adapter_pools
    ]
    slots = torch.empty(3, dtype=torch.int64, device="meta")
    with torch.inference_mode(), OnOneDevice("meta"):
        values = program.model(audio, lengths, *pools, slots)
        if program.loop is not None:
            *state, pending = program.loop.rounds(*values)
            assert pending.is_meta
            values = program.loop.end(*values[: -len(state)], *state)
    assert len(values) == len(case.spec.outputs)
    assert all(len(value) == 3 and value.is_meta for value in values)
