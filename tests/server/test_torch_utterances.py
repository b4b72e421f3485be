"""Whole utterances on torch against transformers: padding, parts, loops, recordings, refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint import load_checkpoint
from export.offline.reference import transcribe
from export.recordings import load_recordings
from export.spec import served_name
from export.streaming.reference import ReferenceResult
from server.backends.earshot.earshot_runtime import utterance_runs
from server.backends.earshot.earshot_runtime.device import open_device
from server.backends.earshot.earshot_runtime.errors import BadStage
from server.backends.earshot.earshot_runtime.program import Program
from server.backends.earshot.earshot_runtime.recorder import Plain, Recorded
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.backends.earshot.earshot_runtime.torch_engine import batch_sizes
from server.backends.earshot.earshot_runtime.torch_program import open_program
from server.backends.earshot.earshot_runtime.torch_utterances import TorchUtterances
from server.engine_time import stage_spec
from tests.support.cpu_recorder import CpuRecorder, OnOneDevice
from tests.support.project import (
    OFFLINE_KINDS,
    OFFLINE_NAMES,
    ExportedOffline,
    OfflineCheckpoint,
)
from tests.support.torch_utterances import (
    LONG,
    NEEDS_GPU,
    RECORDERS,
    SHORT,
    expected_of,
    run,
    tokens_of,
)


@dataclass(frozen=True)
class Case:
    """A recognizer for torch, and utterances of several lengths with what the original says."""

    folder: Path
    exported: StageSpec
    """With the lengths of the export."""
    spec: StageSpec
    """With `SHORT` and `LONG` instead of these."""
    program: Program
    utterances: list[np.ndarray]
    references: list[ReferenceResult]
    blank: int | None
    causal: bool


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=[] if kind == "rnnt" else pytest.mark.slow)
        for kind in OFFLINE_KINDS
    ],
)
def case(
    request: pytest.FixtureRequest,
    exported_offline_torch: ExportedOffline,
    offline_checkpoint: OfflineCheckpoint,
) -> Case:
    kind: str = request.param
    model = served_name(OFFLINE_NAMES.get(kind, ""), "recognizer_offline")
    repository = exported_offline_torch(kind)
    exported = stage_spec(repository, model)
    spec = replace(
        exported,
        lengths=(SHORT, LONG),
        run_lengths=(SHORT, LONG),
        max_run_length=8 * LONG,
    )
    checkpoint = load_checkpoint(str(offline_checkpoint(kind)))
    speech = [recording.samples for recording in load_recordings()[:5]]
    lengths = (LONG, SHORT - 500, LONG - 4_321, 16_000, LONG)
    utterances = [samples[:most] for samples, most in zip(speech, lengths, strict=True)]
    return Case(
        folder=repository / model / "1",
        exported=exported,
        spec=spec,
        program=open_program(repository / model / "1", spec, torch.device("cpu")),
        utterances=utterances,
        references=transcribe(checkpoint, utterances),
        blank=checkpoint.model.config.pad_token_id if kind == "ctc" else None,
        causal=kind == "streaming",
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("plain", marks=pytest.mark.slow),
        "recorded",
        pytest.param("cuda", marks=NEEDS_GPU),
    ],
)
def engine(request: pytest.FixtureRequest, case: Case) -> TorchUtterances:
    """On a CPU, as in a server there; with recordings that work like CUDA graphs; on a GPU."""
    device = torch.device("cuda:0" if request.param == "cuda" else "cpu")
    program = case.program
    if device.type == "cuda":
        program = open_program(case.folder, case.spec, device)
    if program.loop:
        # Too few rounds for these utterances, so that more are needed.
        program = replace(program, loop=replace(program.loop, runs=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utterance_runs, "_RECORDED_SHARE", 0.4)
        return TorchUtterances(program, case.spec, device, RECORDERS[request.param]())


def test_any_number_of_rows_of_any_lengths_matches_the_original(
    case: Case, engine: TorchUtterances
) -> None:
    """Each run follows another one whose remains must do no harm."""
    assert sum(len(reference.tokens) for reference in case.references) > 20
    for rows in ([0, 1, 2, 3, 4], [3], [1, 3], [0, 1, 2, 3, 4] * 2, [2]):
        outputs = run(engine, [case.utterances[row] for row in rows])
        assert all(len(output) == len(rows) for output in outputs)
        for index, row in enumerate(rows):
            got = tokens_of(outputs, index, case.blank)
            assert got == expected_of(case.references[row]), (rows, index)


def test_an_utterance_without_audio_has_no_tokens(case: Case, engine: TorchUtterances) -> None:
    outputs = run(engine, [case.utterances[0]] * 2, [0, len(case.utterances[0])])
    # A causal encoder has a frame of padding alone, whose tokens are those of no speech.
    alone = run(engine, [case.utterances[0]], [0])
    expected = tokens_of(alone, 0, case.blank) if case.causal else []
    assert tokens_of(outputs, 0, case.blank) == expected
    assert tokens_of(outputs, 1, case.blank) == expected_of(case.references[0])


def test_log_probabilities_do_not_depend_on_the_batch(case: Case, engine: TorchUtterances) -> None:
    together, alone = run(engine, case.utterances), run(engine, case.utterances[:1])
    column = 2 if case.blank is None else 1
    count = len(case.references[0].tokens)
    assert (together[column][0, :count] <= 0).all()
    np.testing.assert_allclose(together[column][0, :count], alone[column][0, :count], atol=2e-4)


class _Counting(CpuRecorder):
    captures = 0

    def capture(self, function: Recorded) -> Recorded:
        self.captures += 1
        return super().capture(function)


def test_a_short_run_is_recorded_when_it_comes_again(
    case: Case, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening records the rounds for each number of rows, and the largest of the short runs."""
    monkeypatch.setattr(utterance_runs, "_RECORDED_SHARE", 0.4)
    recorder = _Counting()
    engine = TorchUtterances(case.program, case.spec, torch.device("cpu"), recorder)
    rounds = 2 * len(batch_sizes(case.spec.max_batch)) if case.program.loop else 0
    assert recorder.captures == rounds + 1
    assert f"opening {case.spec.model}: largest runs" in capfd.readouterr().err
    for captures in (0, 1, 1, 1):
        outputs = run(engine, case.utterances[1:2])
        assert recorder.captures == rounds + 1 + captures
        assert tokens_of(outputs, 0, case.blank) == expected_of(case.references[1])


def test_attention_is_never_planned_for_a_shape(case: Case) -> None:
    """As cuDNN would do on a GPU, for a good part of a second each time."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    open_device(case.spec)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_run_holds_no_more_than_fits(case: Case) -> None:
    narrow = replace(case.spec, max_run_length=2 * LONG)
    engine = TorchUtterances(case.program, narrow, torch.device("cpu"), Plain())
    assert [engine.most_rows(length) for length in (SHORT, LONG)] == [2, 2]
    outputs = run(engine, case.utterances)
    for row, reference in enumerate(case.references):
        assert tokens_of(outputs, row, case.blank) == expected_of(reference)


@pytest.mark.parametrize(
    "changes",
    [
        {"run_lengths": ()},
        {"run_lengths": (SHORT,)},
        {"max_run_length": None},
        {"max_run_length": LONG},
    ],
)
def test_runs_in_which_an_utterance_does_not_fit_are_refused(case: Case, changes: dict) -> None:
    with pytest.raises(BadStage, match=f"run_lengths must end with {LONG} or more.*export the"):
        TorchUtterances(case.program, replace(case.spec, **changes), torch.device("cpu"), Plain())


def test_a_program_moves_to_its_device_as_a_whole(case: Case) -> None:
    """Meta tensors take the place of a GPU's: they have no data, so nothing may read them.

    The shortest and the longest runs of the export are no special cases for the program.
    """
    program = open_program(case.folder, case.spec, torch.device("meta"))
    shortest, *_, longest = case.exported.run_lengths
    for rows, length in [(2, longest), (96, shortest)]:
        audio = torch.empty(rows, length, device="meta")
        lengths = torch.empty(rows, 1, dtype=torch.int32, device="meta")
        with torch.inference_mode(), OnOneDevice("meta"):
            values = program.model(audio, lengths)
            if program.loop is not None:
                *state, pending = program.loop.rounds(*values)
                assert pending.is_meta
                values = program.loop.end(*values[: -len(state)], *state)
        assert len(values) == len(case.spec.outputs)
        assert all(len(value) == rows and value.is_meta for value in values)
