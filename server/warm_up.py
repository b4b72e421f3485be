"""Run every batch size, then all streams at once, before the server reports that it is ready.

TensorRT loads kernels on their first run, which would delay the first clients by a second. Opening
as many streams as an ensemble accepts also checks that they fit into the state pool.
"""

from __future__ import annotations

import queue
import secrets
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from .access import OPEN, Access
from .errors import TritonDied
from .local_client import open_client

_TIMEOUT_S = 120.0


def warm_up(
    url: str, ensemble: str, max_batch_size: int, streams: int, access: Access = OPEN
) -> None:
    """Send two chunks of silence on 1, 2, 4 ... `max_batch_size` and on `streams` streams at once.

    Raises:
        TritonDied: a request fails.
    """
    buckets = [2**power for power in range(max_batch_size.bit_length())]
    with open_client(url, access) as client:
        inputs = silence(client, ensemble)
        for count in (*(bucket for bucket in buckets if bucket < streams), streams):
            _run_streams(client, ensemble, inputs, count)


def warm_up_files(url: str, ensemble: str, max_batch_size: int, access: Access = OPEN) -> None:
    """Send silence of every length to which clients pad files: one request, then the largest batch.

    Raises:
        TritonDied: a request fails.
    """
    with open_client(url, access) as client:
        for samples in bucket_samples(client, ensemble):
            inputs = silence(client, ensemble, samples)
            for count in (1, max_batch_size):
                _run(client, ensemble, inputs, [{}] * count, f"{count} files of {samples} samples")


def bucket_samples(client: Any, ensemble: str) -> list[int]:
    """Return the lengths that clients pad files to, shortest first."""
    config = client.get_model_config(ensemble, client_timeout=_TIMEOUT_S).config
    rate_hz = int(config.parameters["sample_rate_hz"].string_value)
    buckets_ms = config.parameters["buckets_ms"].string_value.split(",")
    return [int(bucket_ms) * rate_hz // 1000 for bucket_ms in buckets_ms]


def silence(client: Any, ensemble: str, samples: int | None = None) -> list[Any]:
    """Return zeros for the model's inputs: `samples` samples, or a whole chunk."""
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
    """Send all first chunks, then all last ones, so that all streams are open in between."""
    # Not from 1 on, because a client may already have opened a stream with that number.
    first_id = secrets.randbits(62) + 1
    ids = range(first_id, first_id + count)
    for flag in ("sequence_start", "sequence_end"):
        requests = [{"sequence_id": sequence_id, flag: True} for sequence_id in ids]
        _run(client, ensemble, inputs, requests, f"{count} streams")


def _run(
    client: Any, ensemble: str, inputs: list[Any], requests: list[dict[str, Any]], what: str
) -> None:
    """Send all `requests` at once, each with its own arguments, and wait for the answers."""
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
