"""A stage without state: the runs of a batch, which do not change any result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from server.backends.earshot.earshot_runtime.chunks import Outcome, Rows
from server.backends.earshot.earshot_runtime.errors import BadStage, ChunkError, InvalidChunk
from server.backends.earshot.earshot_runtime.onnx_utterances import OnnxUtterances
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.backends.earshot.earshot_runtime.utterances import Utterances, UtteranceStage, packed
from tests.support.toy_repository import save

STEP = 4
CONFIG = {
    "name": "sums",
    "max_batch_size": 32,
    "input": [
        {"name": "AUDIO", "data_type": "TYPE_FP32", "dims": ["-1"]},
        {"name": "AUDIO_LENGTH", "data_type": "TYPE_INT32", "dims": ["1"]},
    ],
    "output": [
        {"name": "SUM", "data_type": "TYPE_FP32", "dims": ["1"]},
        {"name": "WIDTH", "data_type": "TYPE_INT64", "dims": ["1"]},
    ],
}
PARAMETERS = {
    "length_input": "AUDIO_LENGTH",
    "length_of": "AUDIO",
    "bounded_inputs": "AUDIO",
    "max_abs": "8",
    "lengths": "8,16",
    "length_step": str(STEP),
}


def config(**changes: str) -> dict:
    parameters = {**PARAMETERS, **changes}
    entries = {key: {"string_value": value} for key, value in parameters.items() if value}
    return {**CONFIG, "parameters": entries}


def write_sums(path: Path) -> Path:
    """Write the sum of each row, and the width of its batch."""
    nodes = [
        helper.make_node("ReduceSum", ["AUDIO", "AXIS"], ["SUM"], keepdims=1),
        helper.make_node("Shape", ["AUDIO"], ["WIDE"], start=1, end=2),
        helper.make_node("Mul", ["AUDIO_LENGTH", "ZERO"], ["ZEROS"]),
        helper.make_node("Cast", ["ZEROS"], ["ZEROS64"], to=TensorProto.INT64),
        helper.make_node("Add", ["ZEROS64", "WIDE"], ["WIDTH"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [
            helper.make_tensor_value_info("AUDIO", TensorProto.FLOAT, ["b", "n"]),
            helper.make_tensor_value_info("AUDIO_LENGTH", TensorProto.INT32, ["b", 1]),
        ],
        [
            helper.make_tensor_value_info("SUM", TensorProto.FLOAT, ["b", 1]),
            helper.make_tensor_value_info("WIDTH", TensorProto.INT64, ["b", 1]),
        ],
        [
            helper.make_tensor("AXIS", TensorProto.INT64, [1], [1]),
            helper.make_tensor("ZERO", TensorProto.INT32, [1], [0]),
        ],
    )
    save(graph, path)
    return path


@pytest.fixture(scope="module")
def graph_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("graph") / "model.onnx")


@pytest.fixture
def stage(graph_path: Path) -> UtteranceStage:
    spec = StageSpec.from_model_config(config())
    return UtteranceStage(spec, OnnxUtterances(graph_path, spec))


def request(value: float, length: int, size: int = 16, rows: int = 1) -> list[np.ndarray]:
    audio = np.full((rows, size), value, np.float32)
    return [audio, np.full((rows, 1), length, np.int32)]


def answers(outcomes: list[Outcome]) -> list[Rows]:
    rows = [outcome for outcome in outcomes if not isinstance(outcome, ChunkError)]
    assert len(rows) == len(outcomes)
    return rows


def test_each_request_gets_its_own_rows_in_order(stage: UtteranceStage) -> None:
    requests = [request(1, 16), request(2, 3), request(3, 15, rows=2), request(4, 8, size=8)]
    sums = [sums.tolist() for sums, _ in answers(stage.process(requests))]
    assert sums == [[[16]], [[6]], [[45], [45]], [[32]]]


def test_padding_goes_no_further_than_the_longest_of_a_run(stage: UtteranceStage) -> None:
    runs = stage.runs
    requests = [request(1, 3), request(1, 16), request(1, 13), request(1, 0)]
    outcomes = answers(stage.process(requests))
    assert [int(width) for _, [[width]] in outcomes] == [4, 16, 16, 4]
    assert stage.runs - runs == 3


def test_each_run_shows_that_it_goes_on(stage: UtteranceStage) -> None:
    opened: list[int] = []

    @contextmanager
    def running() -> Iterator[None]:
        opened.append(stage.runs)
        yield

    runs = stage.runs
    stage.process([request(1, 3), request(1, 16)], running=running)
    assert opened == [runs, runs + 1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request(1, 9, size=9), "AUDIO has a length of 9, not 8, 16: pad it with zeros"),
        (request(1, 9, size=99), "AUDIO has a length of 99, not 8, 16: cut it into pieces"),
        (request(1, 17), "AUDIO_LENGTH must lie in 0..16, not 17"),
        (request(1, -1), "AUDIO_LENGTH must lie in 0..16, not -1"),
        (request(9, 1), "AUDIO peaks at 9: its values must lie in -8..8"),
        (request(np.nan, 1), "AUDIO holds NaN: its values must lie in -8..8"),
    ],
)
def test_a_bad_request_fails_alone(
    stage: UtteranceStage, bad: list[np.ndarray], message: str
) -> None:
    first, refused, last = stage.process([request(1, 16), bad, request(2, 16)])
    good, other = answers([first, last])
    assert good[0] == 16 and other[0] == 32
    assert isinstance(refused, InvalidChunk)
    assert str(refused) == message


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 3)), max_size=60))
def test_runs_hold_every_request_once_and_none_that_is_much_shorter(
    sizes: list[tuple[int, int]],
) -> None:
    requests = {
        key: Utterances([np.zeros((rows, 1))], length) for key, (length, rows) in enumerate(sizes)
    }
    runs = packed(requests, lambda _: 16)
    assert sorted(key for run in runs for key in run) == list(requests)
    for run in runs:
        lengths = [requests[key].length for key in run]
        assert min(lengths) >= 0.5 * max(lengths)
        assert sum(requests[key].rows for key in run) <= 16
        for key, length in list(zip(run, lengths, strict=True))[8:]:
            assert length >= 0.7 * max(lengths), key


@pytest.mark.parametrize("size", [0, 41])
def test_stages_behind_the_first_have_a_longest_input(graph_path: Path, size: int) -> None:
    spec = StageSpec.from_model_config(config(lengths="", max_length="40"))
    stage = UtteranceStage(spec, OnnxUtterances(graph_path, spec))
    good, refused = stage.process([request(1, 40, size=40), request(1, 0, size=size)])
    assert answers([good])[0][0] == 40
    assert str(refused) == f"AUDIO has a length of {size}, which must lie in 1..40"


def test_a_config_that_does_not_fit_the_graph_is_refused(graph_path: Path) -> None:
    with pytest.raises(BadStage, match="needs the parameter length_input"):
        StageSpec.from_model_config(config(length_input="", length_of=""))
    with pytest.raises(BadStage, match="'lengths' must be counts, not '8,long'"):
        StageSpec.from_model_config(config(lengths="8,long"))
