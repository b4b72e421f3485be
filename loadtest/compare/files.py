"""`python -m loadtest files`: measure the audio per second that a server transcribes from files.

Several processes keep files in flight for a while. They prepare their requests beforehand and send
them repeatedly, because padding and encoding megabytes would take cores from the server. If server
and generator share a machine, the figure is a lower bound.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Model,
    Output,
    Repository,
    console,
    exiting_on,
)

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    import earshot

WARM_UP_S = 3.0
_START_S = 120.0
"""Time for the other processes to start and to read their files."""


@dataclass(frozen=True)
class FilesLoad:
    """The load that one process generates."""

    url: str
    info: earshot.OfflineInfo
    recordings: Path
    at_once: int
    seed: int
    seconds: float
    """Length of the measured time, which begins after `WARM_UP_S`."""


@dataclass(frozen=True)
class FilesDone:
    """The files that were answered within the measured time."""

    audio_s: float
    answer_ms: list[float]


def files(
    repository: Repository = DEFAULT_REPOSITORY,
    model: Model = None,
    recordings: Annotated[Path, typer.Option(help="Folder with the files to send.")] = RECORDINGS,
    processes: Annotated[int, typer.Option(min=1, help="Load generator processes.")] = 1,
    files_at_once: Annotated[int, typer.Option(min=1, help="Files in flight, in all.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the measurement.")] = 20.0,
    output: Output = Path("build/files.json"),
) -> None:
    """Measure how many seconds of audio per second a server transcribes from whole files."""
    import earshot
    from tritonclient.utils import InferenceServerException

    from loadtest.compare.whole_files import snapshot
    from loadtest.result.files import require_writable, write_whole
    from loadtest.service.server import ServerEnded, serving

    refused = (earshot.EarshotError, ServerEnded, InferenceServerException, BrokenProcessPool)
    with exiting_on(*refused, OSError, ValueError):
        require_writable(output)
        console.print("starting the server")
        began_s = time.monotonic()
        with serving(repository) as server:
            console.print(f"the server was ready after {time.monotonic() - began_s:.1f} s")
            with earshot.connect(server.url, model=model) as client:
                info = _require_files(client)
            at_once = max(1, files_at_once // processes)
            loads = [
                FilesLoad(server.url, info, recordings, at_once, seed, seconds)
                for seed in range(processes)
            ]
            console.print(
                f"{processes} processes begin to send files, {at_once * processes} at once, and "
                f"do so for {WARM_UP_S + seconds:g} s"
            )
            before = snapshot(server, info.name)
            done = summary(run_processes(loads), seconds)
            after = snapshot(server, info.name)
    document = {
        "kind": "files",
        **done,
        "files_at_once": at_once * processes,
        "processes": processes,
        "checkpoint": info.model,
        "runtime": info.runtime,
        "precision": info.precision,
        "rows_per_run": {
            name: round((after["rows"][name] - before["rows"].get(name, 0.0)) / runs, 1)
            for name, count in after["runs"].items()
            if (runs := count - before["runs"].get(name, 0.0))
        },
        **_conditions(recordings),
    }
    write_whole(output, json.dumps(document, indent=2) + "\n")
    print(f"{document['audio_s_per_s']:.0f} seconds of audio per second; {output}")


def _require_files(client: earshot.Client) -> earshot.OfflineInfo:
    import earshot

    if client.offline is None:
        raise earshot.UnsupportedServer(
            "expected a recognizer of whole files: export with --mode offline or --mode both"
        )
    return client.offline


def _conditions(recordings: Path) -> dict[str, Any]:
    from loadtest.gpu.machine import describe_machine
    from loadtest.result.machine import now, this_command

    return {
        "recordings": recordings.name,
        "machine": describe_machine(),
        "command": this_command(),
        "ended_at": now(),
    }


def run_processes(loads: Sequence[FilesLoad]) -> list[FilesDone]:
    """Run each load in a process of its own; all begin together when they are ready."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(len(loads))
    with ProcessPoolExecutor(
        len(loads), mp_context=context, initializer=_started, initargs=(ready,)
    ) as pool:
        return list(pool.map(send, loads))


def _started(ready: Barrier) -> None:
    """Store the barrier, which cannot be passed to a process as part of its load."""
    global _ready
    _ready = ready


_ready: Barrier | None = None


def send(load: FilesLoad) -> FilesDone:
    """Keep files in flight until the load ends; return those answered in the measured time."""
    from loadtest.audio.recordings import SAMPLE_RATE_HZ, load_clips
    from loadtest.compare.whole_files import file_inputs

    clips = [clip.samples for clip in load_clips(load.recordings)]
    longest = load.info.longest_samples
    prepared = [
        (len(samples) / SAMPLE_RATE_HZ, file_inputs(samples, load.info))
        for samples in clips
        if len(samples) <= longest
    ]
    if not prepared:
        raise ValueError(f"no recording below {load.recordings} is short enough for one piece")
    assert _ready is not None
    try:
        _ready.wait(_START_S)
    except BrokenBarrierError:
        raise TimeoutError(
            f"not all processes that send files were ready within {_START_S:g} s"
        ) from None
    return asyncio.run(_send(load, prepared))


async def _send(load: FilesLoad, prepared: Sequence[tuple[float, list[Any]]]) -> FilesDone:
    import tritonclient.grpc.aio as grpcclient

    from loadtest.compare.whole_files import infer_file

    begins_s = time.monotonic() + WARM_UP_S
    ends_s = begins_s + load.seconds
    order = random.Random(load.seed)
    done: list[tuple[float, float]] = []

    async def keep_sending(client: grpcclient.InferenceServerClient) -> None:
        while time.monotonic() < ends_s:
            audio_s, inputs = order.choice(prepared)
            began_s = time.monotonic()
            await infer_file(client, load.info, inputs)
            ended_s = time.monotonic()
            if begins_s <= ended_s <= ends_s:
                done.append((audio_s, 1000 * (ended_s - began_s)))

    async with grpcclient.InferenceServerClient(load.url) as client:
        await asyncio.gather(*(keep_sending(client) for _ in range(load.at_once)))
    return FilesDone(sum(audio_s for audio_s, _ in done), [ms for _, ms in done])


def summary(done: Sequence[FilesDone], seconds: float) -> dict[str, float]:
    """Return the rate and the latencies.

    Raises:
        ValueError: No file was answered.
    """
    answers_ms = sorted(ms for part in done for ms in part.answer_ms)
    if not answers_ms:
        raise ValueError("no file was answered in time: measure for longer, with fewer files")
    audio_s = sum(part.audio_s for part in done)
    return {
        "audio_s_per_s": round(audio_s / seconds, 1),
        "seconds": seconds,
        "files": len(answers_ms),
        "mean_file_s": round(audio_s / len(answers_ms), 2),
        "answer_p50_ms": round(answers_ms[len(answers_ms) // 2], 1),
        "answer_p99_ms": round(answers_ms[len(answers_ms) * 99 // 100], 1),
    }
