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


def warm_up_files(url: str, ensemble: str, max_batch_size: int) -> None:
    """Sends silence of every length that clients pad to: one alone, then the largest batch.

    Raises TritonDied when one of them fails.
    """
    with grpcclient.InferenceServerClient(url, channel_args=_NO_PROXY) as client:
        for samples in _bucket_samples(client, ensemble):
            inputs = _silence(client, ensemble, samples)
            for count in (1, max_batch_size):
                _run(client, ensemble, inputs, [{}] * count, f"{count} files of {samples} samples")


def _bucket_samples(client: Any, ensemble: str) -> list[int]:
    config = client.get_model_config(ensemble, client_timeout=_TIMEOUT_S).config
    rate_hz = int(config.parameters["sample_rate_hz"].string_value)
    buckets_ms = config.parameters["buckets_ms"].string_value.split(",")
    return [int(bucket_ms) * rate_hz // 1000 for bucket_ms in buckets_ms]


def _silence(client: Any, ensemble: str, samples: int | None = None) -> list[Any]:
    """Zeros for the model's inputs: so many samples, or a whole chunk of them."""
    metadata = client.get_model_metadata(ensemble, client_timeout=_TIMEOUT_S)
    audio, length = metadata.inputs
    count = samples or int(audio.shape[-1])
    values = {
        audio.name: np.zeros((1, count), dtype=np.float32),
        length.name: np.array([[count]], dtype=np.int32),
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
    for flag in ("sequence_start", "sequence_end"):
        requests = [{"sequence_id": sequence_id, flag: True} for sequence_id in ids]
        _run(client, ensemble, inputs, requests, f"{count} streams")


def _run(
    client: Any, ensemble: str, inputs: list[Any], requests: list[dict[str, Any]], what: str
) -> None:
    """Sends all `requests` at once, each with arguments of its own, and waits for the answers."""
    answers: queue.SimpleQueue[InferenceServerException | None] = queue.SimpleQueue()
    for arguments in requests:
        client.async_infer(
            ensemble,
            inputs,
            lambda result, error: answers.put(error),
            client_timeout=_TIMEOUT_S,
            **arguments,
        )
    errors = [error for error in (answers.get() for _ in requests) if error is not None]
    if errors:
        raise TritonDied(f"warm-up with {what} failed: {errors[0]}")
