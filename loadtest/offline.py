"""``python -m loadtest offline``: whole files per second and core, against `transformers` itself.

Presses `asr_offline` with many files at once, in no order, and counts the CPU time of all server
processes; then runs the original over the same files on the same cores. Both in one run, both in
CPU time, so a client on the same machine does not count; wall time is given as well.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import tritonclient.grpc.aio as grpcclient
import typer
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferInput

from loadtest.machine import cpu_model
from loadtest.server_process import ServerProcess, serving
from loadtest.speech import RECORDINGS, SAMPLE_RATE_HZ, Samples, load_recordings
from loadtest.transformers_loop import OriginalRun, run_original

ENSEMBLE = "asr_offline"
_console = Console(stderr=True)


@dataclass(frozen=True)
class ServiceRun:
    """All files through the service, ``rounds`` times."""

    files_at_once: int
    audio_s: float
    cpu_s: dict[str, float]
    wall_s: float
    mean_batch: dict[str, float]
    """Requests in a batch that Triton hands to a model."""
    mean_run: dict[str, float]
    """Utterances in a run of a stage's graph: the backend packs those of like length."""


def main(
    checkpoint: Annotated[Path, typer.Option(help="What was exported.")] = Path("checkpoints/demo"),
    repository: Annotated[Path, typer.Option(help="Exported models.")] = Path("model_repository"),
    recordings: Annotated[Path, typer.Option(help="Files below this folder.")] = RECORDINGS,
    files_at_once: Annotated[int, typer.Option(min=1, help="Files in flight.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Times that every file is sent.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare audio seconds per second and core of the service with transformers itself."""
    files = [recording.samples for recording in load_recordings(recordings)]
    with serving(repository) as server, _console.status("sending files to the service"):
        service = asyncio.run(_press(server, files, files_at_once, rounds))
    with _console.status("running transformers"):
        original = run_original(checkpoint, files, batches=(1, 4, 8, 16), threads=(1, 2))
    report = _report(service, original, files)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


async def _press(
    server: ServerProcess, files: Sequence[Samples], at_once: int, rounds: int
) -> ServiceRun:
    async with grpcclient.InferenceServerClient(server.url) as client:
        config: Any = await client.get_model_config(ENSEMBLE, as_json=True)
        buckets = _buckets_samples(config["config"]["parameters"])
        order = [*files] * rounds
        random.Random(0).shuffle(order)
        await _send_all(client, order[:at_once], at_once, buckets)
        before, began = _snapshot(server), time.monotonic()
        await _send_all(client, order, at_once, buckets)
        after, wall_s = _snapshot(server), time.monotonic() - began
    grown = {
        name: {key: value - before[name].get(key, 0.0) for key, value in values.items()}
        for name, values in after.items()
    }
    return ServiceRun(
        files_at_once=at_once,
        audio_s=sum(map(len, order)) / SAMPLE_RATE_HZ,
        cpu_s=grown["cpu_s"],
        wall_s=wall_s,
        mean_batch=_ratios(grown["requests"], grown["batches"]),
        mean_run=_ratios(grown["rows"], grown["runs"]),
    )


def _buckets_samples(parameters: dict[str, dict[str, str]]) -> list[int]:
    text = parameters["buckets_ms"]["string_value"]
    return [int(ms) * SAMPLE_RATE_HZ // 1000 for ms in text.split(",")]


def _snapshot(server: ServerProcess) -> dict[str, dict[str, float]]:
    return {
        "cpu_s": server.cpu_s(),
        "requests": server.counter("nv_inference_count"),
        "batches": server.counter("nv_inference_exec_count"),
        "rows": server.counter("earshot_rows_total"),
        "runs": server.counter("earshot_runs_total"),
    }


def _ratios(counts: dict[str, float], batches: dict[str, float]) -> dict[str, float]:
    return {name: counts[name] / batches[name] for name in counts if batches.get(name)}


async def _send_all(
    client: grpcclient.InferenceServerClient,
    files: Sequence[Samples],
    at_once: int,
    buckets: Sequence[int],
) -> None:
    gate = asyncio.Semaphore(at_once)

    async def send(samples: Samples) -> None:
        async with gate:
            await client.infer(ENSEMBLE, _inputs(samples, buckets))

    await asyncio.gather(*map(send, files))


def _inputs(samples: Samples, buckets: Sequence[int]) -> list[InferInput]:
    """AUDIO with zeros up to its bucket, and AUDIO_LENGTH."""
    bucket = next(size for size in buckets if size >= len(samples))
    audio = InferInput("AUDIO", [1, bucket], "FP32")
    audio.set_data_from_numpy(np.pad(samples, (0, bucket - len(samples)))[None])
    length = InferInput("AUDIO_LENGTH", [1, 1], "INT32")
    length.set_data_from_numpy(np.array([[len(samples)]], np.int32))
    return [audio, length]


def _report(
    service: ServiceRun, original: Sequence[OriginalRun], files: Sequence[Samples]
) -> dict[str, Any]:
    audio_s = sum(map(len, files)) / SAMPLE_RATE_HZ
    per_core = service.audio_s / sum(service.cpu_s.values())
    best = max(audio_s / run.cpu_s for run in original)
    return {
        "files": len(files),
        "audio_s": round(audio_s, 1),
        "longest_file_s": round(max(map(len, files)) / SAMPLE_RATE_HZ, 1),
        "service": {
            "files_at_once": service.files_at_once,
            "audio_s_per_core_s": round(per_core, 1),
            "audio_s_per_wall_s": round(service.audio_s / service.wall_s, 1),
            "cpu_ms_per_audio_s": _rounded(
                {name: 1000 * used / service.audio_s for name, used in service.cpu_s.items()}
            ),
            "mean_batch": _rounded(service.mean_batch),
            "mean_run": _rounded(service.mean_run),
        },
        "transformers": [
            {
                **{key: round(value, 2) for key, value in asdict(run).items()},
                "audio_s_per_core_s": round(audio_s / run.cpu_s, 1),
                "audio_s_per_wall_s": round(audio_s / run.wall_s, 1),
            }
            for run in original
        ],
        "ratio_per_core": round(per_core / best, 2),
        "cores": psutil.cpu_count(),
        "machine": cpu_model(),
        "versions": {name: version(name) for name in ("onnxruntime", "torch", "transformers")},
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in sorted(values.items())}


def _print(report: dict[str, Any]) -> None:
    table = Table(title=f"{report['files']} files, {report['audio_s']:.0f} s of audio")
    table.add_column("")
    table.add_column("audio s per core s", justify="right")
    table.add_column("per wall s", justify="right")
    service = report["service"]
    rows = [(f"service, {service['files_at_once']} files at once", service)]
    rows += [
        (f"transformers, batch {run['batch']}, {run['threads']} thread(s)", run)
        for run in report["transformers"]
    ]
    for name, row in rows:
        table.add_row(name, str(row["audio_s_per_core_s"]), str(row["audio_s_per_wall_s"]))
    console = Console()
    console.print(table)
    batch, run = service["mean_batch"]["encoder_offline"], service["mean_run"]["encoder_offline"]
    console.print(
        f"the service does {report['ratio_per_core']:.2f} times the work of transformers at its "
        f"best per core; encoder batches of {batch:.1f}, run as {run:.1f} of like length"
    )
