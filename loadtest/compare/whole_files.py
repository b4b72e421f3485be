"""Send many whole files at once, to count the CPU time that they take."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import earshot
import numpy as np
import tritonclient.grpc.aio as grpcclient
from tritonclient.grpc import InferInput

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio
from loadtest.service.server import ServerProcess
from loadtest.service.stages import by_stage

Work = tuple[earshot.OfflineInfo, Audio]
"""A file, and the recognizer to send it to."""


@dataclass(frozen=True)
class ServiceRun:
    """Figures of the service for all files of a run."""

    files_at_once: int
    audio_s: float
    cpu_s: dict[str, float]
    wall_s: float
    mean_batch: dict[str, float]
    """Mean number of requests in a batch that Triton passes to each model."""
    mean_run: dict[str, float]
    """Mean number of utterances in a run of each stage's graph; the backend groups similar
    lengths."""


def send_files(
    server: ServerProcess,
    files: Sequence[Audio],
    at_once: int,
    rounds: int,
    model: str | None,
    adapters: Sequence[str] = (),
) -> ServiceRun:
    """Send `files` in random order, each `rounds` times, `at_once` at a time.

    Args:
        server: The server to load.
        files: Samples [N] of each file, 16 kHz.
        at_once: Files in flight.
        rounds: Number of times that every file is sent.
        model: Recognizer to use, as for `earshot.connect`.
        adapters: Recognizers that share its models, which get the files in turn instead.

    Raises:
        earshot.EarshotError: The server cannot be reached, or lacks such a recognizer.
    """
    base = _recognizer(server.url, model)
    infos = [_recognizer(server.url, adapter) for adapter in adapters] or [base]
    order = [*files] * rounds
    random.Random(0).shuffle(order)
    work = list(zip(cycle(infos), order, strict=False))
    return asyncio.run(_measure(server, base.name, work, at_once))


def _recognizer(url: str, model: str | None) -> earshot.OfflineInfo:
    with earshot.connect(url, model=model) as client:
        info = client.offline
    if info is None:
        raise earshot.UnsupportedServer(
            "expected a recognizer of whole files: export with --mode offline or --mode both"
        )
    return info


async def _measure(
    server: ServerProcess, recognizer: str, work: Sequence[Work], at_once: int
) -> ServiceRun:
    """Send the files of `work`, and count the work of the models of `recognizer`."""
    async with grpcclient.InferenceServerClient(server.url) as client:
        await _send_all(client, work[:at_once], at_once)
        before, began = snapshot(server, recognizer), time.monotonic()
        await _send_all(client, work, at_once)
        after, wall_s = snapshot(server, recognizer), time.monotonic() - began
    grown = {
        name: {key: value - before[name].get(key, 0.0) for key, value in values.items()}
        for name, values in after.items()
    }
    return ServiceRun(
        files_at_once=at_once,
        audio_s=sum(len(samples) for _, samples in work) / SAMPLE_RATE_HZ,
        cpu_s=grown["cpu_s"],
        wall_s=wall_s,
        mean_batch=_ratios(grown["requests"], grown["batches"]),
        mean_run=_ratios(grown["rows"], grown["runs"]),
    )


def snapshot(server: ServerProcess, name: str) -> dict[str, dict[str, float]]:
    """Return the counters of the server so far, by name and stage of the recognizer `name`."""
    counters = {
        "cpu_s": server.cpu_s(),
        "requests": server.counter("nv_inference_count"),
        "batches": server.counter("nv_inference_exec_count"),
        "rows": server.counter("earshot_rows_total"),
        "runs": server.counter("earshot_runs_total"),
    }
    return {what: by_stage(values, name) for what, values in counters.items()}


def _ratios(counts: dict[str, float], batches: dict[str, float]) -> dict[str, float]:
    return {name: counts[name] / batches[name] for name in counts if batches.get(name)}


async def _send_all(
    client: grpcclient.InferenceServerClient, work: Sequence[Work], at_once: int
) -> None:
    gate = asyncio.Semaphore(at_once)

    async def send(info: earshot.OfflineInfo, samples: Audio) -> None:
        async with gate:
            await infer_file(client, info, file_inputs(samples, info))

    await asyncio.gather(*(send(*one) for one in work))


async def infer_file(
    client: grpcclient.InferenceServerClient, info: earshot.OfflineInfo, inputs: list[InferInput]
) -> None:
    """Send a file to a recognizer, which may be an adapter, and wait for the answer."""
    parameters = {"adapter": info.adapter} if info.adapter else None
    await client.infer(info.ensemble, inputs, parameters=parameters)


def file_inputs(samples: Audio, info: earshot.OfflineInfo) -> list[InferInput]:
    """Return AUDIO, padded with zeros to its bucket, and AUDIO_LENGTH."""
    buckets = map(info.bucket_samples, info.buckets_ms)
    bucket = next(size for size in buckets if size >= len(samples))
    audio = InferInput("AUDIO", [1, bucket], "FP32")
    audio.set_data_from_numpy(np.pad(samples, (0, bucket - len(samples)))[None])
    length = InferInput("AUDIO_LENGTH", [1, 1], "INT32")
    length.set_data_from_numpy(np.array([[len(samples)]], np.int32))
    return [audio, length]
