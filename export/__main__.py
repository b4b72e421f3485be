"""``python -m export CHECKPOINT``: a checkpoint becomes a model repository for Triton."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.audio import SUPPORTED_CHUNK_MS
from export.errors import ExportError, ParityFailed
from export.spec import Serving

_console = Console(stderr=True)


class Runtime(StrEnum):
    """What executes the exported graphs."""

    onnxruntime = "onnxruntime"
    torch = "torch"


class Layout(StrEnum):
    """How many models the stages become."""

    stages = "stages"
    fused = "fused"


class Precision(StrEnum):
    """Arithmetic: int8 of the encoder alone, 16 bits of all matrices but the log-mel ones."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"


_DEFAULT_INSTANCES = {Runtime.onnxruntime: Serving.encoder_instances, Runtime.torch: 1}


def main(
    checkpoint: Annotated[
        str, typer.Argument(help="Local folder in transformers format, or a hub id.")
    ],
    chunk_ms: Annotated[
        int,
        typer.Option(help=f"Audio per step: {', '.join(map(str, SUPPORTED_CHUNK_MS))}."),
    ] = 560,
    runtime: Annotated[
        Runtime, typer.Option(help="onnxruntime for CPUs, torch for GPUs (runs on CPUs too).")
    ] = Runtime.onnxruntime,
    layout: Annotated[
        Layout, typer.Option(help="One model per stage, or one for all: fewer hops per chunk.")
    ] = Layout.stages,
    precision: Annotated[
        Precision,
        typer.Option(
            help="int8 (onnxruntime) is faster on CPUs, fp16 and bf16 (torch) on GPUs; they may "
            "change a few tokens."
        ),
    ] = Precision.fp32,
    repository: Annotated[Path, typer.Option(help="Model repository to install into.")] = Path(
        "model_repository"
    ),
    max_streams: Annotated[
        int, typer.Option(min=1, help="Live streams that the server accepts.")
    ] = Serving.max_streams,
    encoder_instances: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes of the encoder or fused recognizer; by default 2, with torch 1.",
        ),
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(min=1, help="Streams in one batch, at most.")
    ] = Serving.max_batch_size,
) -> None:
    """Export a streaming recognizer to ONNX and Triton configs, proved equal to the original.

    The stages are compared with transformers on the recordings of this repository before anything
    is installed; if they differ, the old model repository stays as it was.
    """
    serving = Serving(
        max_streams=max_streams,
        max_batch_size=max_batch_size,
        encoder_instances=encoder_instances or _DEFAULT_INSTANCES[runtime],
    )
    try:
        _export(
            checkpoint, chunk_ms, runtime.value, precision.value, repository, serving, layout.value
        )
    except ParityFailed as error:
        _complain(f"parity failed: {error}")
        sys.exit(1)
    except ExportError as error:
        _complain(f"error: {error}")
        sys.exit(2)


def _complain(message: str) -> None:
    _console.print(message, style="red", markup=False, soft_wrap=True)


def _export(
    name: str,
    chunk_ms: int,
    runtime: str,
    precision: str,
    repository: Path,
    serving: Serving,
    layout: str,
) -> None:
    # Torch and transformers take seconds to load; --help and bad options should not wait for them.
    from export.audio import frames_per_chunk
    from export.checkpoint import load_checkpoint
    from export.streaming import export_streaming

    frames_per_chunk(chunk_ms)
    with _console.status("loading the checkpoint") as status:
        loaded = load_checkpoint(name)
        _console.print(f"{loaded.name}: {loaded.parameters / 1e6:.1f}M parameters")

        def report(step: str) -> None:
            status.update(step)
            _console.print(f"  {step}")

        parity = export_streaming(
            loaded, chunk_ms, runtime, precision, repository, serving, report, layout
        )
    assert parity is not None
    _console.print(
        f"  {parity.audio_seconds:.0f} s of speech, {parity.reference_tokens} reference tokens: "
        f"{parity.chain_token_difference:.2%} differ, {parity.alone_token_difference:.2%} if each "
        "stream runs alone"
    )
    _console.print(f"[green]installed[/green] in {repository} ({chunk_ms} ms chunks, {precision})")


if __name__ == "__main__":
    typer.run(main)
