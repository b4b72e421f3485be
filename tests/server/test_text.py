"""The text of a batch, computed from the outputs of the last engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from server.backends.earshot.earshot_runtime.adapters import AdapterSlots
from server.backends.earshot.earshot_runtime.chunks import Chunks, Outcome
from server.backends.earshot.earshot_runtime.counts import FAILED_CHUNKS
from server.backends.earshot.earshot_runtime.errors import (
    BadStage,
    ChunkError,
    EarlierStageFailed,
    InvalidChunk,
    RunFailed,
)
from server.backends.earshot.earshot_runtime.sequences import SequenceStage
from server.backends.earshot.earshot_runtime.slots import Slots
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.backends.earshot.earshot_runtime.text import Texts
from server.backends.earshot.earshot_runtime.text_stage import TextStage
from server.backends.earshot.earshot_runtime.utterance_engine import Array
from server.backends.earshot.earshot_runtime.utterances import UtteranceStage
from tests.support.checkpoints import small_tokenizer

# "▁a", "b", "c", "▁d": every third token begins a word.
A, B, D = 1, 2, 4
PAD = -1

Starts: TypeAlias = "npt.NDArray[np.bool_]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer().save(str(path / "tokenizer.json"))
    return path


def spec(inputs: dict[str, str], outputs: dict[str, str], **parameters: str) -> StageSpec:
    """A stage that converts tokens to text and has no engine."""
    tensors: dict[str, list[dict[str, Any]]] = {
        side: [{"name": name, "data_type": dtype, "dims": [-1]} for name, dtype in named.items()]
        for side, named in (("input", inputs), ("output", outputs))
    }
    values = {"runtime": "tokenizers", **parameters}
    return StageSpec.from_model_config(
        {
            "name": "text",
            "max_batch_size": 8,
            **tensors,
            "parameters": {key: {"string_value": value} for key, value in values.items()},
        }
    )


TEXT = {"TEXT": "TYPE_STRING", "TOKEN_TEXT_LENGTHS": "TYPE_INT32"}
TOKENS = {"TOKENS": "TYPE_INT32", "TOKEN_COUNT": "TYPE_INT32"}


def test_each_row_continues_its_own_stream(folder: Path) -> None:
    arrays = {
        "TOKENS": np.array([[A, B, PAD], [D, PAD, PAD], [PAD, PAD, PAD]], np.int32),
        "TOKEN_COUNT": np.array([[2], [1], [0]], np.int32),
        "PREVIOUS_TOKENS": np.array([[PAD] * 8, [*[PAD] * 7, A], [PAD] * 8], np.int32),
    }
    stage = spec({**TOKENS, "PREVIOUS_TOKENS": "TYPE_INT32"}, TEXT)
    (text, lengths), errors = Texts(folder, stage).of(arrays)
    assert not errors
    assert text.tolist() == [[b"ab"], [b" d"], [b""]]
    assert lengths.tolist() == [[1, 1, PAD], [2, PAD, PAD], [PAD, PAD, PAD]]


def test_the_labels_of_ctc_become_tokens_and_text(folder: Path) -> None:
    blank = 9
    outputs = {**TEXT, **TOKENS, "TOKEN_FRAMES": "TYPE_INT32", "TOKEN_LOGPROBS": "TYPE_FP32"}
    labels = {"FRAME_TOKENS": "TYPE_INT32", "FRAME_LOGPROBS": "TYPE_FP32"}
    stage = spec(labels, outputs, ctc_blank=str(blank))
    arrays = {
        "FRAME_TOKENS": np.array([[A, A, blank, D, D]], np.int32),
        "FRAME_LOGPROBS": np.full((1, 5), -0.5, np.float32),
    }
    rows, _ = Texts(folder, stage).of(arrays)
    made = dict(zip(stage.responses, rows, strict=True))
    assert made["TEXT"].tolist() == [[b"a d"]]
    assert made["TOKEN_COUNT"].tolist() == [[2]]
    assert made["TOKENS"].tolist() == [[A, D, PAD, PAD, PAD]]
    assert made["TOKEN_FRAMES"].tolist() == [[0, 3, PAD, PAD, PAD]]
    assert made["TOKEN_TEXT_LENGTHS"].tolist() == [[1, 2, PAD, PAD, PAD]]


@pytest.mark.parametrize("label", [-5, 3])
def test_labels_that_do_not_exist_are_the_fault_of_their_sender(folder: Path, label: int) -> None:
    labels = {"FRAME_TOKENS": "TYPE_INT32", "FRAME_LOGPROBS": "TYPE_FP32"}
    described = spec(labels, TEXT, ctc_blank="9")
    stage = TextStage(described, Texts(folder, described))
    request = [np.array([[A, label]], np.int32), np.zeros((1, 2), np.float32)]
    [outcome] = stage.process([request])
    assert isinstance(outcome, InvalidChunk) == (label < 0)


class EchoStreams:
    """An engine whose tokens are the first of its inputs."""

    def __init__(self) -> None:
        self.inputs = {"CODES": np.zeros((8, 3), np.int32), "LENGTH": np.zeros((8, 1), np.int32)}
        self.outputs = {
            "TOKENS": np.zeros((8, 3), np.int32),
            "TOKEN_COUNT": np.zeros((8, 1), np.int32),
            "PREVIOUS_TOKENS": np.full((8, 8), PAD, np.int32),
        }
        self._last: dict[int, int] = {}

    def run(self, slots: Slots, starts: Starts, adapters: AdapterSlots | None = None) -> None:
        for row, (slot, start) in enumerate(zip(slots.tolist(), starts.tolist(), strict=True)):
            self.outputs["PREVIOUS_TOKENS"][row, -1] = PAD if start else self._last[slot]
            self._last[slot] = int(self.inputs["CODES"][row, 0])
        self.outputs["TOKENS"][:] = self.inputs["CODES"]
        self.outputs["TOKEN_COUNT"][:] = self.inputs["LENGTH"] > 0

    def store_adapter(self, slot: int, rows: Any) -> None:
        raise NotImplementedError


class EchoUtterances:
    """An engine whose tokens are its inputs."""

    def run(self, inputs: Sequence[Array], adapters: AdapterSlots | None = None) -> list[Array]:
        return list(inputs)

    def most_rows(self, length: int) -> int:
        return 8

    def store_adapter(self, slot: int, rows: Any) -> None:
        raise NotImplementedError


def described(sequences: bool) -> StageSpec:
    """The last stage of a recognizer."""
    inputs = {"CODES": 3 if sequences else -1, "LENGTH": 1}
    outputs = {"TOKENS": 3 if sequences else -1, "TOKEN_COUNT": 1}
    outputs |= {"PREVIOUS_TOKENS": 8} if sequences else {}
    config: dict[str, Any] = {
        "name": "decoder",
        "max_batch_size": 8,
        "input": [{"name": n, "data_type": "TYPE_INT32", "dims": [d]} for n, d in inputs.items()],
        "output": [
            *({"name": n, "data_type": "TYPE_INT32", "dims": [d]} for n, d in outputs.items()),
            {"name": "TEXT", "data_type": "TYPE_STRING", "dims": [1]},
            {"name": "TOKEN_TEXT_LENGTHS", "data_type": "TYPE_INT32", "dims": [3]},
        ],
        "parameters": {
            key: {"string_value": value}
            for key, value in {"length_input": "LENGTH", "length_of": "CODES"}.items()
        },
    }
    if sequences:
        config["sequence_batching"] = {"max_sequence_idle_microseconds": "1000000"}
        config["parameters"]["max_streams"] = {"string_value": "4"}
    return StageSpec.from_model_config(config)


@pytest.fixture
def streams(folder: Path) -> SequenceStage:
    stage = described(sequences=True)
    return SequenceStage(stage, EchoStreams(), texts=Texts(folder, stage))


def chunks(*entries: tuple[int, str, int, int]) -> Chunks:
    """Chunks of (stream, flags, token, length); S is START, E is END."""
    return Chunks(
        streams=[stream for stream, *_ in entries],
        starts=["S" in flags for _, flags, *_ in entries],
        ends=["E" in flags for _, flags, *_ in entries],
        inputs=[
            [np.array([[token] * 3], np.int32) for *_, token, _ in entries],
            [np.array([[length]], np.int32) for *_, length in entries],
        ],
        adapters=[""] * len(entries),
        canaries=[False] * len(entries),
    )


def texts(outcomes: list[Outcome]) -> list[Any]:
    """The text of each request, or the type of its error."""
    return [type(o) if isinstance(o, ChunkError) else o[3].item() for o in outcomes]


def test_a_refused_row_leaves_the_others_their_own_text(streams: SequenceStage) -> None:
    first = streams.process(chunks((1, "S", A, 3), (2, "S", B, 9), (3, "S", D, 3)), 0.0)
    assert texts(first) == [b"a", InvalidChunk, b"d"]
    second = streams.process(chunks((3, "", A, 3), (1, "", B, 3)), 0.0)
    assert texts(second) == [b" a", b"b"]


def test_a_stream_twice_in_a_batch_goes_on_with_its_own_text(streams: SequenceStage) -> None:
    outcomes = streams.process(chunks((1, "S", A, 3), (1, "", D, 3), (2, "S", D, 3)), 0.0)
    assert texts(outcomes) == [b"a", b" d", b"d"]


@pytest.mark.parametrize(("length", "error"), [(-1, InvalidChunk), (-2, EarlierStageFailed)])
def test_the_last_stage_tells_the_client_what_an_earlier_one_passed_on(
    streams: SequenceStage, length: int, error: type[ChunkError]
) -> None:
    streams.process(chunks((1, "S", A, 3)), 0.0)
    [outcome] = streams.process(chunks((1, "E", A, length)), 0.0)
    assert isinstance(outcome, error)
    assert "last chunk" in str(outcome)
    assert streams.slots.live == 0


def test_tokens_without_a_text_fail_their_own_request_alone(streams: SequenceStage) -> None:
    outcomes = streams.process(chunks((1, "S", A, 3), (2, "S", -7, 3), (3, "S", D, 3)), 0.0)
    assert texts(outcomes) == [b"a", RunFailed, b"d"]
    assert "the tokenizer failed" in str(outcomes[1])
    assert streams.metrics()[FAILED_CHUNKS] == 1


def test_a_request_of_several_utterances_gets_the_text_of_each(folder: Path) -> None:
    stage = described(sequences=False)
    utterances = UtteranceStage(stage, EchoUtterances(), texts=Texts(folder, stage))
    two = [np.array([[A, B, D], [D, D, D]], np.int32), np.array([[3], [1]], np.int32)]
    bad = [np.array([[-7, A, A]], np.int32), np.array([[3]], np.int32)]
    first, second = utterances.process([two, bad])
    assert not isinstance(first, ChunkError)
    assert first[2].tolist() == [[b"ab d"], [b"d"]]
    assert isinstance(second, RunFailed)


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStage, match=r"cannot load .*tokenizer\.json"):
        Texts(tmp_path, spec(TOKENS, TEXT))
