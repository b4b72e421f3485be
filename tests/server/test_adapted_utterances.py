"""Whole utterances with adapters and without, in the same runs of a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from server.backends.earshot.earshot_runtime.adapter_files import AdapterFile, AdapterFiles
from server.backends.earshot.earshot_runtime.adapters import LoadedAdapters
from server.backends.earshot.earshot_runtime.chunks import Outcome
from server.backends.earshot.earshot_runtime.errors import (
    BadAdapter,
    BadStage,
    ChunkError,
    InvalidChunk,
    UnknownAdapter,
)
from server.backends.earshot.earshot_runtime.onnx_utterances import OnnxUtterances
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.backends.earshot.earshot_runtime.utterances import Utterances, UtteranceStage, packed
from tests.support.toy_repository import save

CAPACITY = 2
VALUES = {"clinic": 10.0, "court": 20.0, "coffee": 30.0}
ADAPTED = {
    "adapters": str(CAPACITY),
    "adapter_parts": "sums",
    "adapter_rows": "1",
    "adapter_widths": "1",
    "adapter_ensembles": "toy_offline",
    "adapter_base": "abc",
}
CONFIG = {
    "name": "sums",
    "max_batch_size": 32,
    "input": [
        {"name": "AUDIO", "data_type": "TYPE_FP32", "dims": ["-1"]},
        {"name": "AUDIO_LENGTH", "data_type": "TYPE_INT32", "dims": ["1"]},
    ],
    "output": [{"name": "SUM", "data_type": "TYPE_FP32", "dims": ["1"]}],
    "parameters": {
        key: {"string_value": value}
        for key, value in (ADAPTED | {"length_input": "AUDIO_LENGTH", "length_of": "AUDIO"}).items()
    },
}
MARK = 0.25
"""The graph with adapters adds it to each sum, so that tests see which graph has run."""


def write_graph(path: Path, *, adapted: bool) -> None:
    """Write the sum of each row; with adapters, their one value and MARK are added to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    floats, ints = TensorProto.FLOAT, TensorProto.INT64
    info = helper.make_tensor_value_info
    inputs = [info("AUDIO", floats, ["b", "n"]), info("AUDIO_LENGTH", TensorProto.INT32, ["b", 1])]
    nodes = [helper.make_node("ReduceSum", ["AUDIO", "axis"], ["sum" if adapted else "SUM"])]
    constants = [helper.make_tensor("axis", ints, [1], [1])]
    if adapted:
        inputs += [info("ADAPTER_POOL", floats, ["a", 1]), info("ADAPTER_SLOTS", ints, ["b"])]
        constants.append(helper.make_tensor("extra", floats, [1], [MARK]))
        nodes += [
            helper.make_node("Gather", ["ADAPTER_POOL", "ADAPTER_SLOTS"], ["change"]),
            helper.make_node("Sum", ["sum", "change", "extra"], ["SUM"]),
        ]
    save(helper.make_graph(nodes, "sums", inputs, [info("SUM", floats, ["b", 1])], constants), path)


def install(repository: Path, name: str, value: float) -> Path:
    path = repository / f"{name}_toy_offline" / "1" / "adapter.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"sums": np.full((1, 1), value, np.float32)}, path, {"base_sha256": "abc"})
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_graph(tmp_path / "sums" / "1" / "model.onnx", adapted=False)
    write_graph(tmp_path / "sums" / "1" / "adapted" / "model.onnx", adapted=True)
    for name, value in VALUES.items():
        install(tmp_path, name, value)
    return tmp_path


@pytest.fixture
def stage(repository: Path) -> UtteranceStage:
    spec = StageSpec.from_model_config(CONFIG)
    assert spec.adapters is not None
    engine = OnnxUtterances(repository / "sums" / "1" / "model.onnx", spec)
    files = AdapterFiles(repository, spec.adapters)
    return UtteranceStage(spec, engine, LoadedAdapters(files, engine, CAPACITY))


def request(length: int, rows: int = 1) -> list[np.ndarray]:
    return [np.ones((rows, 16), np.float32), np.full((rows, 1), length, np.int32)]


def sums(outcomes: list[Outcome]) -> list[float]:
    values: list[float] = []
    for outcome in outcomes:
        assert not isinstance(outcome, ChunkError), outcome
        values += outcome[0].ravel().tolist()
    return values


def test_each_utterance_of_a_run_has_its_own(stage: UtteranceStage) -> None:
    requests = [request(8), request(7, rows=2), request(6), request(5)]
    runs = stage.runs
    outcomes = stage.process(requests, ["court", "clinic", "", "court"])
    assert sums(outcomes) == [28.25, 17.25, 17.25, 6.25, 25.25]
    assert stage.runs == runs + 1


def test_a_run_without_adapters_takes_the_plain_graph(stage: UtteranceStage) -> None:
    assert sums(stage.process([request(8), request(7)], ["", ""])) == [8, 7]
    assert sums(stage.process([request(8), request(1)], ["clinic", ""])) == [18.25, 1]
    assert sums(stage.process([request(8)])) == [8]


def test_more_adapters_than_there_is_room_for(stage: UtteranceStage) -> None:
    """They take turns, and no request is refused."""
    names = [*VALUES, "", *VALUES, *reversed(VALUES)]
    outcomes = stage.process([request(8)] * len(names), names)
    changes = [int(value) - 8 for value in sums(outcomes)]
    assert changes == [VALUES.get(name, 0) for name in names]
    metrics = stage.metrics()
    assert metrics["earshot_adapters", ()] == CAPACITY
    assert metrics["earshot_loaded_adapters_total", ()] >= 3


def test_the_least_recently_used_one_makes_room(stage: UtteranceStage) -> None:
    for name in ("clinic", "court", "clinic", "coffee", "clinic"):
        assert sums(stage.process([request(8)], [name])) == [8 + MARK + VALUES[name]]
    assert stage.metrics()["earshot_loaded_adapters_total", ()] == 3
    stage.process([request(8)], ["court"])
    assert stage.metrics()["earshot_loaded_adapters_total", ()] == 4


def test_a_request_that_is_refused_leaves_the_others_alone(
    stage: UtteranceStage, repository: Path
) -> None:
    install(repository, "tavern", np.nan)
    names = ["clinic", "bakery", "tavern", "clinic", ""]
    requests = [*[request(8)] * 3, request(17), request(7)]
    first, unknown, bad, long, last = stage.process(requests, names)
    assert sums([first, last]) == [18.25, 7.25]
    assert isinstance(unknown, UnknownAdapter)
    assert "no adapter 'bakery'; it has clinic, coffee, court, tavern: install" in str(unknown)
    assert isinstance(bad, BadAdapter)
    assert isinstance(long, InvalidChunk)


def test_nothing_runs_if_all_are_refused(stage: UtteranceStage, repository: Path) -> None:
    install(repository, "tavern", np.nan)
    runs = stage.runs
    [outcome] = stage.process([request(8)], ["tavern"])
    assert isinstance(outcome, BadAdapter)
    assert stage.runs == runs


def test_a_stage_that_adapters_do_not_change(repository: Path) -> None:
    """Like the feature extractor, which gets the same parameters as the stages after it."""
    spec = replace(StageSpec.from_model_config(CONFIG), adapters=None)
    stage = UtteranceStage(spec, OnnxUtterances(repository / "sums" / "1" / "model.onnx", spec))
    assert sums(stage.process([request(8)], ["clinic"])) == [8]


def test_a_repository_without_the_second_graph(repository: Path) -> None:
    folder = repository / "sums" / "1"
    (folder / "adapted" / "model.onnx").unlink()
    with pytest.raises(BadStage, match=r"cannot load .*adapted"):
        OnnxUtterances(folder / "model.onnx", StageSpec.from_model_config(CONFIG))


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(0, 5)), max_size=40), st.integers(1, 4))
def test_a_run_never_needs_more_adapters_than_fit(
    requests: list[tuple[int, int]], most: int
) -> None:
    utterances = {
        key: Utterances(
            request(length),
            length,
            AdapterFile(f"shop{adapter}", Path(), adapter, 0) if adapter else None,
        )
        for key, (length, adapter) in enumerate(requests)
    }
    runs = packed(utterances, lambda _: 16, most)
    assert sorted(key for run in runs for key in run) == list(utterances)
    for run in runs:
        assert len({utterances[key].adapter for key in run} - {None}) <= most
