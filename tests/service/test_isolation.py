"""Requests to the detokenizer by name harm no other request in their batch."""

from __future__ import annotations

import secrets
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from server.launch import running
from tests.support.project import Exported

pytestmark = pytest.mark.triton

CHUNK_MS = 320


def test_a_token_that_does_not_exist_fails_alone(exported: Exported) -> None:
    """Requests to the detokenizer by name, good and bad ones in the same batches."""
    with (
        running(exported(CHUNK_MS)) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        answers = [_detokenize(client, token) for token in (3, -5) * 100]
        errors = [answer.exception(timeout=30) for answer in answers]
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
