"""The torch engine against the stages themselves: padding, slots, loops, refusals."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from server.backends.earshot.earshot_runtime import torch_engine
from server.backends.earshot.earshot_runtime.device import device_of
from server.backends.earshot.earshot_runtime.errors import BadStage
from server.backends.earshot.earshot_runtime.torch_engine import (
    TorchEngine,
    batch_sizes,
    open_torch,
)
from server.backends.earshot.earshot_runtime.torch_program import open_program
from tests.support.cpu_recorder import CpuRecorder, OnOneDevice
from tests.support.long_streams import assert_frames_are_exact
from tests.support.torch_recognizer import FRAMES, STREAMS, Recognizer


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return Recognizer(tmp_path_factory.mktemp("torch"))


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module", params=["cpu", "recorded", pytest.param("cuda", marks=NEEDS_GPU)])
def engine(request: pytest.FixtureRequest, recognizer: Recognizer) -> TorchEngine:
    """On a CPU; there with recordings that work like CUDA graphs; on a GPU."""
    device = "cuda" if request.param == "cuda" else "cpu"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "recorded":
            patch.setattr(torch_engine, "Plain", CpuRecorder)
        return open_torch(recognizer.folder, replace(recognizer.backend_spec, device=device))


def _run(
    engine: TorchEngine, audio: np.ndarray, lengths: np.ndarray, slots: list[int], start: bool
) -> list[np.ndarray]:
    rows = len(slots)
    engine.inputs["AUDIO"][:rows] = audio
    engine.inputs["AUDIO_LENGTH"][:rows, 0] = lengths
    engine.run(np.array(slots), np.full(rows, start))
    return [output[:rows].copy() for output in engine.outputs.values()]


def _noise(chunks: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    audio = np.random.default_rng(3).normal(0, 0.1, (chunks, batch, FRAMES * 1280))
    lengths = np.full((chunks, batch), FRAMES * 1280, np.int32)
    lengths[-1, 0] = 700
    return audio.astype(np.float32), lengths


def _assert_same(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for index, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        if index == 2:  # logprobs
            np.testing.assert_allclose(mine, theirs, atol=2e-4)
        else:
            np.testing.assert_array_equal(mine, theirs)


def test_sizes_end_with_the_largest_batch() -> None:
    assert batch_sizes(64) == [2, 8, 16, 32, 48, 64]
    assert batch_sizes(10) == [2, 8, 10]
    assert batch_sizes(1) == [2]


def test_a_loop_longer_than_usual_runs_to_its_end(
    recognizer: Recognizer, engine: TorchEngine
) -> None:
    audio, lengths = _noise(chunks=4, batch=5)
    expected = recognizer.expected(audio, lengths)
    most = FRAMES * 3
    assert expected[1][3].max() == most, "the test needs a chunk with all the tokens it may have"
    for step in range(4):
        got = _run(engine, audio[step], lengths[step], [7, 0, 11, 3, 5], start=step == 0)
        _assert_same(got, expected[step])


def test_padding_and_other_streams_change_nothing(
    recognizer: Recognizer, engine: TorchEngine
) -> None:
    audio, lengths = _noise(chunks=3, batch=9)
    expected = recognizer.expected(audio, lengths)
    for step in range(3):
        for rows in ([0], [1, 2], [3, 4, 5, 6, 7, 8]):
            got = _run(engine, audio[step, rows], lengths[step, rows], rows, start=step == 0)
            _assert_same(got, [output[rows] for output in expected[step]])


def test_a_start_resets_its_slot_alone(recognizer: Recognizer, engine: TorchEngine) -> None:
    audio, lengths = _noise(chunks=3, batch=2)
    expected = recognizer.expected(audio, lengths)
    _run(engine, audio[2], lengths[0], [4, 6], start=True)
    for step in range(3):
        got = _run(engine, audio[step, :1], lengths[step, :1], [4], start=step == 0)
        _assert_same(got, [output[:1] for output in expected[step]])


def test_chunks_in_the_spare_slot_are_streams_of_their_own(
    recognizer: Recognizer, engine: TorchEngine
) -> None:
    """Padding has it as well: three rows run as eight."""
    audio, lengths = _noise(chunks=2, batch=3)
    expected = recognizer.expected(audio, lengths)[0]
    for slots in ([STREAMS, 3, STREAMS], [STREAMS] * 3):
        _assert_same(_run(engine, audio[0], lengths[0], slots, start=True), expected)


def test_tokens_have_their_frames_after_weeks(engine: TorchEngine) -> None:
    def step(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        audio, lengths = inputs
        return _run(engine, audio, lengths[:, 0], [0, 1], start=False)

    with torch.inference_mode(), engine._recorder.stream():
        for pool in engine._pools:
            pool.zero_()
        assert_frames_are_exact(step, engine._pools[2], FRAMES * 1280)


def test_what_a_refused_row_leaves_behind_does_no_harm(
    recognizer: Recognizer, engine: TorchEngine
) -> None:
    """Rows past the batch may hold anything: here a length that would loop for a day."""
    audio, lengths = _noise(chunks=1, batch=3)
    engine.inputs["AUDIO"][3:] = np.nan
    engine.inputs["AUDIO_LENGTH"][3:] = 2**31 - 1
    got = _run(engine, audio[0], lengths[0], [0, 1, 2], start=True)
    _assert_same(got, recognizer.expected(audio, lengths)[0])


def test_a_gpu_that_is_not_there_is_refused(recognizer: Recognizer) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    spec = replace(recognizer.backend_spec, device="cuda")
    with pytest.raises(BadStage, match="sees no GPU here: install a CUDA build of torch"):
        open_torch(recognizer.folder, spec)


def test_an_unknown_device_is_refused(recognizer: Recognizer) -> None:
    spec = replace(recognizer.backend_spec, device="tpu")
    with pytest.raises(BadStage, match="must be auto, cpu or cuda, not 'tpu'"):
        open_torch(recognizer.folder, spec)


def test_a_program_that_does_not_fit_the_config_is_refused(recognizer: Recognizer) -> None:
    spec = recognizer.backend_spec
    other = replace(spec, outputs=spec.outputs[:-1])
    with pytest.raises(BadStage, match=r"disagree on the outputs: .* export the model again"):
        open_torch(recognizer.folder, other)


def test_a_file_that_is_no_program_is_refused(recognizer: Recognizer, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(BadStage, match="cannot load"):
        open_torch(tmp_path, recognizer.backend_spec)


def test_a_program_of_another_format_is_refused(recognizer: Recognizer, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(recognizer.folder / "model.pt2") as old,
        zipfile.ZipFile(tmp_path / "model.pt2", "w") as new,
    ):
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("earshot.json"):
                content = json.dumps(json.loads(content) | {"format": 0}).encode()
            new.writestr(entry, content)
    with pytest.raises(BadStage, match="has format 0, expected 2"):
        open_torch(tmp_path, recognizer.backend_spec)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_program_moves_to_its_device_as_a_whole(
    recognizer: Recognizer, tmp_path: Path, precision: str
) -> None:
    """Meta tensors take the place of a GPU's: they have no data, so nothing may read them."""
    if precision != "fp32":
        recognizer = Recognizer(tmp_path, precision)
    spec = recognizer.backend_spec
    program = open_program(recognizer.folder, spec, torch.device("meta"))
    assert program.loop is not None
    shapes = [(5, *t.dims) for t in spec.inputs]
    types = [getattr(torch, t.dtype.name) for t in spec.inputs]
    shapes += [(pool.rows * STREAMS, pool.width) for pool in program.pools]
    types += [pool.dtype for pool in program.pools]
    tensors = [
        torch.empty(shape, dtype=dtype, device="meta")
        for shape, dtype in zip([*shapes, (5,)], [*types, torch.int64], strict=True)
    ]
    with torch.inference_mode(), OnOneDevice("meta"):
        carried = program.model(*tensors)[: -2 * (len(program.pools) - 1)]
        *moving, pending = program.loop.rounds(*carried)
        outputs = program.loop.end(*carried[: -len(moving)], *moving)
    assert pending.is_meta
    assert [tuple(output.shape) for output in outputs[:5]] == [(5, *t.dims) for t in spec.outputs]


def test_the_gpu_is_named_with_its_index(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program compares its tensors' device with the name it was moved to."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(recognizer.backend_spec).index is None
    for device in ("auto", "cuda"):
        spec = replace(recognizer.backend_spec, device=device)
        assert device_of(spec) == torch.device("cuda", 0)
