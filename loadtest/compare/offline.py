"""`python -m loadtest offline`: compare whole files per second and core with `transformers`.

It sends many files at once to `asr_offline`, in random order, and counts the CPU time of all server
processes; then it runs the original model over the same files on the same cores. Both figures count
CPU time, so a client on the same machine does not affect them; elapsed time is reported as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    Model,
    Repository,
    console,
    exiting_on,
)
from loadtest.result.machine import cpu_model

if TYPE_CHECKING:
    from loadtest.compare.transformers_loop import OriginalRun
    from loadtest.compare.whole_files import ServiceRun


ENCODER, RECOGNIZER = "encoder_offline", "recognizer_offline"
"""The stage that does most of the work: one of several, or all in one with torch."""


def main(
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint that was exported.")] = Path(
        "checkpoints/demo"
    ),
    repository: Repository = DEFAULT_REPOSITORY,
    model: Model = None,
    recordings: Annotated[
        Path,
        typer.Option(
            help="Folder with the files to send. Default: the bundled recordings.",
            show_default=False,
        ),
    ] = RECORDINGS,
    files_at_once: Annotated[int, typer.Option(min=1, help="Files in flight.")] = 64,
    rounds: Annotated[
        int, typer.Option(min=1, help="Number of times that every file is sent.")
    ] = 3,
    adapters: Annotated[
        int,
        typer.Option(
            min=0,
            help="Then spread the files over this many adapters of the recognizer: random_0 and "
            "so on, as installed by `python -m export.adapters.random`.",
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Compare audio seconds per second and core of the service with those of transformers."""
    import earshot

    from loadtest.audio.recordings import SAMPLE_RATE_HZ, load_clips
    from loadtest.compare.transformers_loop import run_original
    from loadtest.compare.whole_files import send_files
    from loadtest.service.server import ServerEnded, serving

    with exiting_on(earshot.EarshotError, ServerEnded, FileNotFoundError, ValueError):
        files = [clip.samples for clip in load_clips(recordings)]
        with serving(repository) as server, console.status("sending files to the service"):
            service = send_files(server, files, files_at_once, rounds, model)
            names = [f"random_{number}" for number in range(adapters)]
            adapted = (
                send_files(server, files, files_at_once, rounds, model, names) if names else None
            )
    with console.status("running transformers"):
        original = run_original(checkpoint, files, batches=(1, 4, 8, 16), threads=(1, 2))
    report = _report(service, original, [len(file) / SAMPLE_RATE_HZ for file in files])
    if adapted is not None:
        report["adapters"] = {
            "adapters": adapters,
            **_figures(adapted),
            "ratio_per_core": round(_per_core(adapted) / _per_core(service), 2),
        }
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


def _report(
    service: ServiceRun, original: Sequence[OriginalRun], files_s: Sequence[float]
) -> dict[str, Any]:
    audio_s = sum(files_s)
    best = max(audio_s / run.cpu_s for run in original)
    return {
        "files": len(files_s),
        "audio_s": round(audio_s, 1),
        "longest_file_s": round(max(files_s), 1),
        "service": _figures(service),
        "transformers": [
            {
                **{key: round(value, 2) for key, value in asdict(run).items()},
                "audio_s_per_core_s": round(audio_s / run.cpu_s, 1),
                "audio_s_per_wall_s": round(audio_s / run.wall_s, 1),
            }
            for run in original
        ],
        "ratio_per_core": round(_per_core(service) / best, 2),
        "cores": psutil.cpu_count(),
        "machine": cpu_model(),
        "versions": {name: version(name) for name in ("onnxruntime", "torch", "transformers")},
    }


def _figures(run: ServiceRun) -> dict[str, Any]:
    return {
        "files_at_once": run.files_at_once,
        "audio_s_per_core_s": round(_per_core(run), 1),
        "audio_s_per_wall_s": round(run.audio_s / run.wall_s, 1),
        "cpu_ms_per_audio_s": _rounded(
            {name: 1000 * used / run.audio_s for name, used in run.cpu_s.items()}
        ),
        "mean_batch": _rounded(run.mean_batch),
        "mean_run": _rounded(run.mean_run),
    }


def _per_core(run: ServiceRun) -> float:
    return run.audio_s / sum(run.cpu_s.values())


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in sorted(values.items())}


def _print(report: dict[str, Any]) -> None:
    table = Table(title=f"{report['files']} files, {report['audio_s']:.0f} s of audio")
    table.add_column("")
    table.add_column("audio s per core s", justify="right")
    table.add_column("per wall s", justify="right")
    service = report["service"]
    rows = [(f"service, {service['files_at_once']} files at once", service)]
    if adapted := report.get("adapters"):
        rows.append((f"service, {adapted['adapters']} adapters", adapted))
    rows += [
        (f"transformers, batch {run['batch']}, {run['threads']} thread(s)", run)
        for run in report["transformers"]
    ]
    for name, row in rows:
        table.add_row(name, str(row["audio_s_per_core_s"]), str(row["audio_s_per_wall_s"]))
    stdout = Console()
    stdout.print(table)
    stage = next(stage for stage in (ENCODER, RECOGNIZER) if stage in service["mean_run"])
    batch, run = service["mean_batch"][stage], service["mean_run"][stage]
    stdout.print(
        f"the service does {report['ratio_per_core']:.2f} times the work of transformers at its "
        f"best per core; {stage} batches of {batch:.1f}, run as {run:.1f} of like length"
    )
