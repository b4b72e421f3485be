"""The text of a batch, computed from the outputs of the last engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.backends.earshot.earshot_runtime.errors import BadStage
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.backends.earshot.earshot_runtime.text import Texts
from tests.support.checkpoints import small_tokenizer

# "▁a", "b", "c", "▁d": every third token begins a word.
A, B, D = 1, 2, 4
PAD = -1


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
    text, lengths = Texts(folder, spec({**TOKENS, "PREVIOUS_TOKENS": "TYPE_INT32"}, TEXT)).of(
        arrays
    )
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
    made = dict(zip(stage.responses, Texts(folder, stage).of(arrays), strict=True))
    assert made["TEXT"].tolist() == [[b"a d"]]
    assert made["TOKEN_COUNT"].tolist() == [[2]]
    assert made["TOKENS"].tolist() == [[A, D, PAD, PAD, PAD]]
    assert made["TOKEN_FRAMES"].tolist() == [[0, 3, PAD, PAD, PAD]]
    assert made["TOKEN_TEXT_LENGTHS"].tolist() == [[1, 2, PAD, PAD, PAD]]


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStage, match=r"cannot load .*tokenizer\.json"):
        Texts(tmp_path, spec(TOKENS, TEXT))
