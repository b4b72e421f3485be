"""``python -m export CHECKPOINT``: a checkpoint becomes a model repository for Triton."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from export.audio import SUPPORTED_CHUNK_MS, frames_per_chunk
from export.errors import ExportError, GateFailed, UnsupportedOption
from export.options import Serving, check_name, check_precision
from export.spec import served_name
from export.tensorrt.gpu import tensorrt_here

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.install import Replacement
    from export.options import Report
    from export.parity import Parity

_console = Console(stderr=True)


class Runtime(StrEnum):
    """What executes the exported graphs."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    torch = "torch"


class Layout(StrEnum):
    """How many models the stages become."""

    stages = "stages"
    fused = "fused"


class Mode(StrEnum):
    """Which ensembles are exported."""

    streaming = "streaming"
    offline = "offline"
    both = "both"


class Precision(StrEnum):
    """Arithmetic; int8 is for onnxruntime, half for tensorrt and torch, fp8 for tensorrt."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    fp8 = "fp8"
    int8 = "int8"


def main(
    checkpoint: Annotated[
        str, typer.Argument(help="Local folder in transformers format, or a hub id.")
    ],
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="streaming: chunk by chunk (asr_streaming); offline: whole utterances "
            "(asr_offline); both: twice the time, disk and memory. By default streaming where the "
            "architecture can, else offline."
        ),
    ] = None,
    chunk_ms: Annotated[
        int,
        typer.Option(help=f"Audio per step: {', '.join(map(str, SUPPORTED_CHUNK_MS))}."),
    ] = 560,
    runtime: Annotated[
        Runtime,
        typer.Option(help="onnxruntime for CPUs, tensorrt for GPUs, torch for GPUs without it."),
    ] = Runtime.onnxruntime,
    layout: Annotated[
        Layout, typer.Option(help="One model per stage, or one for all: fewer hops per chunk.")
    ] = Layout.stages,
    precision: Annotated[
        Precision,
        typer.Option(
            help="onnxruntime: fp32, or int8 (faster on CPUs; may change a few tokens, depending "
            "on the batch). tensorrt: fp32, fp16, bf16, or fp8 (needs nvidia-modelopt). torch: "
            "fp32, fp16, bf16."
        ),
    ] = Precision.fp32,
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
            help="Processes of the encoder or fused recognizer, with torch of the detokenizer too; "
            "by default 2, with torch 1.",
        ),
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(min=1, help="Streams in one batch, at most.")
    ] = Serving.max_batch_size,
) -> None:
    """Export a recognizer to ONNX and Triton configs, proved equal to the original.

    The stages are compared with transformers on the recordings of this repository before anything
    is installed; if they differ, the old model repository stays as it was.
    """
    serving = Serving(
        max_streams=max_streams,
        max_batch_size=max_batch_size,
        encoder_instances=encoder_instances or (1 if runtime is Runtime.torch else 2),
    )
    try:
        _check_options(runtime.value, precision.value, layout.value, chunk_ms, name)
        order = _Order(
            chunk_ms=chunk_ms,
            runtime=runtime.value,
            precision=precision.value,
            layout=layout.value,
            serving=serving,
            name=name,
        )
        _export(checkpoint, mode, repository, order)
    except GateFailed as error:
        _complain(f"nothing was installed: {error}")
        sys.exit(1)
    except ExportError as error:
        _complain(f"error: {error}")
        sys.exit(2)


def _check_options(runtime: str, precision: str, layout: str, chunk_ms: int, name: str) -> None:
    """What can be refused without looking at the checkpoint."""
    check_name(name)
    check_precision(runtime, precision)
    frames_per_chunk(chunk_ms)
    if runtime == "tensorrt" and layout != "stages":
        raise UnsupportedOption("--layout fused is for onnxruntime and torch, not for tensorrt")
    if runtime == "tensorrt":
        tensorrt_here()


def _complain(message: str) -> None:
    _console.print(message, style="red", markup=False, soft_wrap=True)


@dataclass(frozen=True)
class _Order:
    """How the models shall be, whichever they are."""

    chunk_ms: int
    runtime: str
    precision: str
    layout: str
    serving: Serving
    name: str


def _export(checkpoint: str, mode: Mode | None, repository: Path, order: _Order) -> None:
    # Torch and transformers take seconds to load; --help and bad options do not wait for them.
    from export.checkpoint import load_checkpoint
    from export.install import replacing

    with _console.status("loading the checkpoint") as status:
        loaded = load_checkpoint(checkpoint)
        _console.print(f"{loaded.name}: {loaded.parameters / 1e6:.1f}M parameters")
        mode = mode or (Mode.streaming if loaded.streams else Mode.offline)
        _require_possible(loaded, mode, order)

        def report(step: str) -> None:
            status.update(step)
            _console.print(f"  {step}")

        ensembles: list[str] = []
        with replacing(repository) as new:
            if mode is not Mode.offline:
                _say(_export_streaming(loaded, order, new, report))
                ensembles.append(f"asr_streaming ({order.chunk_ms} ms chunks, {order.precision})")
            if mode is not Mode.streaming:
                _say(_export_offline(loaded, order, new, report))
                ensembles.append(f"asr_offline (whole utterances, {order.precision})")
    for ensemble in ensembles:
        what = served_name(order.name, ensemble)
        _console.print(f"[green]installed[/green] {what} in {repository}")
    if mode is not Mode.both:
        _warn_of_the_other(repository, order.name, mode, loaded)


def _export_streaming(
    checkpoint: Checkpoint, order: _Order, new: Replacement, report: Report
) -> Parity:
    from export.streaming.export import export_streaming
    from export.tensorrt.export import export_tensorrt

    what = order.runtime, order.precision
    if order.runtime == "tensorrt":
        return export_tensorrt(
            checkpoint, order.chunk_ms, order.precision, new, order.serving, report, order.name
        )
    parity = export_streaming(
        checkpoint, order.chunk_ms, *what, new, order.serving, report, order.name, order.layout
    )
    assert parity is not None
    return parity


def _export_offline(
    checkpoint: Checkpoint, order: _Order, new: Replacement, report: Report
) -> Parity:
    from export.offline.export import export_offline
    from export.options import OfflineServing
    from export.tensorrt.export_offline import export_offline_tensorrt

    serving = OfflineServing(encoder_instances=order.serving.encoder_instances)
    if order.runtime == "tensorrt":
        return export_offline_tensorrt(checkpoint, new, serving, report, order.name)
    return export_offline(
        checkpoint, order.runtime, order.precision, new, serving, report, order.name
    )


def _require_possible(checkpoint: Checkpoint, mode: Mode, order: _Order) -> None:
    """What is for live streams is refused where there are others."""
    if mode is not Mode.offline and not checkpoint.streams:
        raise UnsupportedOption(
            f"{checkpoint.name} is a {checkpoint.architecture}: it hears whole utterances only; "
            "use --mode offline"
        )
    if mode is Mode.streaming:
        return
    if order.runtime == "torch":
        raise UnsupportedOption(
            "--runtime torch is for live streams only: add --mode streaming, or use --runtime "
            "onnxruntime or tensorrt"
        )
    if order.runtime == "tensorrt" and order.precision != "fp32":
        raise UnsupportedOption(
            f"engines for whole utterances are fp32 so far, not {order.precision}: export them on "
            "their own, with --mode offline --precision fp32"
        )
    if order.layout == "fused" and mode is Mode.offline:
        raise UnsupportedOption("--layout fused is for live streams only, and there are none")


def _warn_of_the_other(repository: Path, name: str, mode: Mode, checkpoint: Checkpoint) -> None:
    """Clients take the two ensembles of one name for one recognizer."""
    other = served_name(name, "asr_offline" if mode is Mode.streaming else "asr_streaming")
    manifest = repository / other / "1" / "manifest.json"
    if not manifest.is_file():
        return
    said = json.loads(manifest.read_text(encoding="utf-8"))["checkpoint"]
    if said["sha256"] != checkpoint.sha256:
        _console.print(
            f"warning: {other} in {repository} is of another checkpoint ({said['name']}) and stays "
            "as it was; export it as well, or remove its models",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _say(parity: Parity) -> None:
    _console.print(
        f"  {parity.audio_seconds:.0f} s of speech, {parity.reference_tokens} reference tokens: "
        f"{parity.chain_token_difference:.2%} differ, {parity.alone_token_difference:.2%} if each "
        "stream runs alone"
    )


if __name__ == "__main__":
    typer.run(main)
