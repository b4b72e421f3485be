"""`python -m export CHECKPOINT`: export a checkpoint to a model repository for Triton."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from export.audio import SUPPORTED_CHUNK_MS
from export.errors import ExportError, GateFailed, UnsupportedOption
from export.options import GPUS, ExportOptions, Serving, offline_serving
from export.spec import OFFLINE, STREAMING, served_name
from export.tensorrt.targets import target_of

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.install import Replacement
    from export.options import Report
    from export.parity import Parity

_console = Console(stderr=True)
app = typer.Typer(add_completion=False)


class Runtime(StrEnum):
    """The runtime that executes the exported graphs."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"
    torch = "torch"


class Layout(StrEnum):
    """The division into models: one for each stage, or one for all."""

    stages = "stages"
    fused = "fused"


class Mode(StrEnum):
    """The ensembles to export."""

    streaming = "streaming"
    offline = "offline"
    both = "both"


_ON_GPU = (Runtime.torch, Runtime.tensorrt_rtx)
"""Runtimes of the bundled backend for GPUs, where one process is enough."""


class Precision(StrEnum):
    """Arithmetic; int8 is for onnxruntime, half for GPUs, fp8 for the full TensorRT."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    fp8 = "fp8"
    int8 = "int8"


@app.command()
def main(
    checkpoint: Annotated[
        str, typer.Argument(help="Local folder in transformers format, or a hub id.")
    ],
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="streaming: chunk by chunk (asr_streaming); offline: whole utterances "
            "(asr_offline); both: twice the time, disk and memory. By default streaming if the "
            "architecture supports it, else offline."
        ),
    ] = None,
    chunk_ms: Annotated[
        int,
        typer.Option(help=f"Audio per step: {', '.join(map(str, SUPPORTED_CHUNK_MS))}."),
    ] = 560,
    runtime: Annotated[
        Runtime,
        typer.Option(
            help="onnxruntime for CPUs; torch for GPUs; tensorrt for GPUs, built and served in "
            "NVIDIA's containers; tensorrt-rtx for the GPUs that --gpu names, built on any "
            "machine, with whole files in onnxruntime."
        ),
    ] = Runtime.onnxruntime,
    layout: Annotated[
        Layout | None,
        typer.Option(
            help="For live streams: one model per stage (default), or one for all, with fewer hops "
            "per chunk. For whole files: one model with torch, stages with other runtimes."
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="onnxruntime: fp32, or int8 (faster on CPUs; may change a few tokens, depending "
            "on the batch). tensorrt: fp32, fp16, bf16, or fp8 (needs nvidia-modelopt). "
            "torch and tensorrt-rtx: fp32, fp16, bf16."
        ),
    ] = Precision.fp32,
    gpu: Annotated[
        str,
        typer.Option(help="For tensorrt-rtx: the GPUs of one engine, by compute capability."),
    ] = ",".join(GPUS),
    repository: Annotated[Path, typer.Option(help="Model repository to install into.")] = Path(
        "model_repository"
    ),
    name: Annotated[
        str,
        typer.Option(
            help="Name among several recognizers of one repository, such as clinic_v2: clients "
            "choose it with --model. Without one, this is the repository's default."
        ),
    ] = "",
    max_streams: Annotated[
        int, typer.Option(min=1, help="Live streams that the server accepts.")
    ] = Serving.max_streams,
    encoder_instances: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes of the encoder or fused recognizer; 2 by default, 1 with torch or "
            "tensorrt-rtx, where they share one engine for live streams.",
        ),
    ] = None,
    own_engines: Annotated[
        bool,
        typer.Option(
            "--own-engines",
            help="With torch and tensorrt-rtx: each of these processes has an engine of its own, "
            "with weights and graphs, for live streams too.",
        ),
    ] = False,
    max_batch_size: Annotated[
        int, typer.Option(min=1, help="Largest number of streams in one batch.")
    ] = Serving.max_batch_size,
    adapters: Annotated[
        int,
        typer.Option(
            min=0,
            help="Adapters that may be in memory at once, in addition to the checkpoint (see "
            "`python -m export.adapters`); others are read when a stream or a file needs them.",
        ),
    ] = Serving.adapters,
    adapter_rank: Annotated[
        int, typer.Option(min=1, help="Largest rank of an adapter.")
    ] = Serving.adapter_rank,
) -> None:
    """Export a recognizer for Triton, and check that its output equals that of the original.

    The stages are compared with transformers on the recordings of this repository before anything
    is installed; if they differ, the old model repository stays as it was.
    """
    instances = encoder_instances or (1 if runtime in _ON_GPU else 2)
    try:
        options = ExportOptions(
            checkpoint=checkpoint,
            repository=repository,
            mode=mode and mode.value,
            chunk_ms=chunk_ms,
            runtime=runtime.value,
            precision=precision.value,
            layout=layout and layout.value,
            gpus=tuple(gpu.split(",")),
            name=name,
            serving=Serving(
                max_streams=max_streams,
                max_batch_size=max_batch_size,
                encoder_instances=instances,
                own_engines=own_engines,
                adapters=adapters,
                adapter_rank=adapter_rank,
            ),
            offline_serving=replace(
                offline_serving(runtime.value, encoder_instances),
                adapters=adapters,
                adapter_rank=adapter_rank,
            ),
        )
        if options.runtime.startswith("tensorrt"):
            target_of(options)
        _export(options)
    except GateFailed as error:
        _print_error(f"nothing was installed: {error}")
        sys.exit(1)
    except ExportError as error:
        _print_error(f"error: {error}")
        sys.exit(2)


def _print_error(message: str) -> None:
    _console.print(message, style="red", markup=False, soft_wrap=True)


def _export(options: ExportOptions) -> None:
    # Torch and transformers take seconds to load; --help and bad options do not wait for them.
    from export.checkpoint import load_checkpoint
    from export.install import replacing

    with _console.status("loading the checkpoint") as status:
        checkpoint = load_checkpoint(options.checkpoint)
        _console.print(f"{checkpoint.name}: {checkpoint.parameters / 1e6:.1f}M parameters")
        if options.mode is None:
            options = replace(options, mode="streaming" if checkpoint.streams else "offline")
        _require_possible(checkpoint, options)

        def report(step: str) -> None:
            status.update(step)
            _console.print(f"  {step}")

        installed: list[str] = []
        with replacing(options.repository) as new:
            if options.mode != "offline":
                _print_parity(_export_streaming(checkpoint, options, new, report))
                installed.append(
                    f"{served_name(options.name, STREAMING)} ({options.chunk_ms} ms chunks, "
                    f"{options.precision}, {options.runtime})"
                )
            if options.mode != "streaming":
                _print_parity(_export_offline(checkpoint, options.of_whole_files, new, report))
                whole = options.of_whole_files
                installed.append(
                    f"{served_name(options.name, OFFLINE)} (whole utterances, {whole.precision}, "
                    f"{whole.runtime})"
                )
    for ensemble in installed:
        _console.print(f"[green]installed[/green] {ensemble} in {options.repository}")
    _warn_of_another_checkpoint(checkpoint, options)
    _warn_of_outdated(options)


def _export_streaming(
    checkpoint: Checkpoint, options: ExportOptions, new: Replacement, report: Report
) -> Parity:
    if options.runtime.startswith("tensorrt"):
        from export.tensorrt.export import export_tensorrt
        from export.tensorrt.export_rtx import export_rtx

        export = export_rtx if options.runtime == "tensorrt-rtx" else export_tensorrt
        return export(checkpoint, options, new, report)
    from export.streaming.export import export_streaming

    parity = export_streaming(checkpoint, options, new, report)
    assert parity is not None
    return parity


def _export_offline(
    checkpoint: Checkpoint, options: ExportOptions, new: Replacement, report: Report
) -> Parity:
    if options.runtime == "tensorrt":
        from export.tensorrt.export_offline import export_offline_tensorrt

        return export_offline_tensorrt(checkpoint, options, new, report)
    from export.offline.export import export_offline

    parity = export_offline(checkpoint, options, new, report)
    assert parity is not None
    return parity


def _require_possible(checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Refuse options that the checkpoint or the mode does not support."""
    if options.mode != "offline" and not checkpoint.streams:
        raise UnsupportedOption(
            f"{checkpoint.name} is a {checkpoint.architecture}, which recognizes whole utterances "
            "only; use --mode offline"
        )
    if options.mode == "streaming":
        return
    if options.runtime == "tensorrt-rtx" and options.mode == "offline":
        raise UnsupportedOption(
            "--runtime tensorrt-rtx builds engines for live streams, and nothing would open those "
            "for whole files: use --runtime torch on a GPU, or --runtime onnxruntime, which "
            "--mode both takes for them"
        )
    if options.runtime == "tensorrt" and options.precision != "fp32":
        raise UnsupportedOption(
            f"engines for whole utterances are fp32 so far, not {options.precision}: export them "
            "on their own, with --mode offline --precision fp32"
        )
    if options.layout is not None and options.mode == "offline":
        raise UnsupportedOption(
            f"--layout {options.layout} is for live streams: whole files are one model with torch, "
            "and stages with other runtimes; leave it out"
        )
    if options.serving.own_engines and options.mode == "offline":
        raise UnsupportedOption(
            "--own-engines is for live streams: processes of whole files have an engine each in "
            "any case; leave it out"
        )


def _warn_of_another_checkpoint(checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Warn if the ensemble of the other mode, which was not exported, is of another checkpoint.

    Clients assume that two ensembles of one name are one recognizer.
    """
    if options.mode == "both":
        return
    other = served_name(options.name, OFFLINE if options.mode == "streaming" else STREAMING)
    manifest = options.repository / other / "1" / "manifest.json"
    if not manifest.is_file():
        return
    exported = json.loads(manifest.read_text(encoding="utf-8"))["checkpoint"]
    if exported["sha256"] != checkpoint.sha256:
        _console.print(
            f"warning: {other} in {options.repository} is of another checkpoint "
            f"({exported['name']}) and stays as it was; export it as well, or remove its models",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _warn_of_outdated(options: ExportOptions) -> None:
    """Warn of heads and adapters that were made for the previous weights."""
    from export.shared import outdated

    modes = {STREAMING: options.mode != "offline", OFFLINE: options.mode != "streaming"}
    for installed in (served_name(options.name, role) for role, has in modes.items() if has):
        for ensemble, command in outdated(options.repository, installed).items():
            _console.print(
                f"warning: {ensemble} in {options.repository} was made for the earlier "
                f"{installed}, whose models it shares: install it again ({command}), or remove it",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )


def _print_parity(parity: Parity) -> None:
    _console.print(
        f"  {parity.audio_seconds:.0f} s of speech, {parity.reference_tokens} reference tokens: "
        f"{parity.chain_token_difference:.2%} differ, {parity.alone_token_difference:.2%} if each "
        "stream runs alone"
    )
