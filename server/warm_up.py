"""Runs every batch bucket once before the server is announced, and every stream at once.

TensorRT's kernels load when they first run, which would cost the first listeners a second. And only
as many streams as an ensemble accepts prove that the state pool holds them.
"""

from __future__ import annotations

import queue
import secrets
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from .errors import TritonDied

_TIMEOUT_S = 120.0
_NO_PROXY = [("grpc.enable_http_proxy", 0)]


def warm_up(url: str, ensemble: str, max_batch_size: int, streams: int) -> None:
    """Sends two chunks of silence on 1, 2, 4 ... `max_batch_size` and on `streams` streams at once.

    Raises TritonDied when one of them fails.
    """
    buckets = [2**power for power in range(max_batch_size.bit_length())]
    with grpcclient.InferenceServerClient(url, channel_args=_NO_PROXY) as client:
        inputs = _silence(client, ensemble)
        for count in (*(bucket for bucket in buckets if bucket < streams), streams):
            _run_streams(client, ensemble, inputs, count)


def _silence(client: Any, ensemble: str) -> list[Any]:
    """One whole chunk of zeros, as the model's own metadata describes it."""
    metadata = client.get_model_metadata(ensemble, client_timeout=_TIMEOUT_S)
    audio, length = metadata.inputs
    samples = audio.shape[-1]
    values = {
        audio.name: np.zeros((1, samples), dtype=np.float32),
        length.name: np.array([[samples]], dtype=np.int32),
    }
    inputs: list[Any] = []
    for tensor in (audio, length):
        value = grpcclient.InferInput(tensor.name, list(values[tensor.name].shape), tensor.datatype)
        value.set_data_from_numpy(values[tensor.name])
        inputs.append(value)
    return inputs


def _run_streams(client: Any, ensemble: str, inputs: list[Any], count: int) -> None:
    """All first chunks together, then all last ones: every state is alive in between."""
    # Not from 1 on: a stream of that number may be open.
    first_id = secrets.randbits(62) + 1
    ids = range(first_id, first_id + count)
    for flags in ({"sequence_start": True}, {"sequence_end": True}):
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for sequence_id in ids:
            client.async_infer(
                ensemble,
                inputs,
                lambda result, error, to=answers: to.put(error),
                sequence_id=sequence_id,
                client_timeout=_TIMEOUT_S,
                **flags,
            )
        errors = [error for error in (answers.get() for _ in ids) if error is not None]
        if errors:
            raise _failed(count, errors[0])


def _failed(count: int, error: InferenceServerException) -> TritonDied:
    return TritonDied(f"warm-up with {count} streams failed: {error}")
