"""Requests to the detokenizer of TensorRT engines harm no other request in their batch."""

from __future__ import annotations

import secrets
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from export.checkpoint import load_checkpoint
from export.install import write_configs, write_tokenizer
from export.options import ExportOptions
from export.streaming.config import config_files
from export.streaming.export import build_stages, spec_of
from server.launch import running

pytestmark = pytest.mark.triton


@pytest.fixture
def detokenizer(random_checkpoint: Path, tmp_path: Path) -> Path:
    """The repository of an export for TensorRT without the plans, which need a GPU."""
    checkpoint = load_checkpoint(str(random_checkpoint))
    options = ExportOptions(str(random_checkpoint), runtime="tensorrt", precision="fp16")
    spec = spec_of(checkpoint, build_stages(checkpoint, options.frames), options)
    path = f"{spec.text_model.name}/config.pbtxt"
    write_configs(tmp_path / "r", {path: config_files(spec)[path]})
    write_tokenizer(tmp_path / "r" / spec.text_model.name, checkpoint)
    return tmp_path / "r"


def test_a_token_that_does_not_exist_fails_alone(detokenizer: Path) -> None:
    """Good and bad requests are in the same batches."""
    with (
        running(detokenizer) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        answers = [_detokenize(client, token) for token in (3, -5) * 100]
        errors = [answer.exception(timeout=300) for answer in answers]
    assert errors[::2] == [None] * 100
    assert all("0 or more, not -5" in str(error) for error in errors[1::2])


def _detokenize(client: grpcclient.InferenceServerClient, token: int) -> Future[Any]:
    config: Any = client.get_model_config("detokenizer")
    arrays = {
        tensor.name: np.full((1, *tensor.dims), 1 if tensor.name == "TOKEN_COUNT" else token)
        for tensor in config.config.input
    }
    inputs: list[Any] = []
    for name, values in arrays.items():
        inputs.append(grpcclient.InferInput(name, list(values.shape), "INT32"))
        inputs[-1].set_data_from_numpy(values.astype(np.int32))
    answer: Future[Any] = Future()
    client.async_infer(
        "detokenizer",
        inputs,
        lambda result, error: answer.set_exception(error) if error else answer.set_result(result),
        sequence_id=secrets.randbits(62) + 1,
        sequence_start=True,
        sequence_end=True,
    )
    return answer
