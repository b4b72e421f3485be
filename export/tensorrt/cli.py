"""`python -m export.tensorrt CHECKPOINT`: check graphs and numerics of a precision, without a GPU.

It runs the steps of `python -m export --runtime tensorrt` that need no GPU: the ONNX files, the
graph gate, NVIDIA's parser, and half precision over minutes of speech. It prints the measurements
as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from export.checkpoint import load_checkpoint
from export.errors import ExportError, GateFailed
from export.options import ExportOptions
from export.recordings import BUNDLED, load_recordings
from export.stages.half import DTYPES
from export.streaming.export import spec_of
from export.tensorrt.export import half_numerics, write_graphs
from export.tensorrt.gpu import require_parser
from export.tensorrt.stages import rescaled_stages

app = typer.Typer(add_completion=False)


@app.command()
def main(
    checkpoint: Annotated[str, typer.Argument(help="Local folder, or a hub id.")],
    precision: Annotated[str, typer.Option(help=f"{', '.join(DTYPES)}.")] = "fp16",
    chunk_ms: Annotated[int, typer.Option(help="Audio per step.")] = 560,
    speech: Annotated[Path, typer.Option(help="Folder with manifest.tsv files.")] = BUNDLED,
) -> None:
    """Check the graphs of a precision and measure it on real speech, without a GPU."""
    if precision not in DTYPES:
        raise typer.BadParameter(f"expected one of {', '.join(DTYPES)}, got {precision}")
    try:
        print(json.dumps(_measured(checkpoint, precision, chunk_ms, speech), indent=2))
    except (ExportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1 if isinstance(error, GateFailed) else 2) from None


def _measured(name: str, precision: str, chunk_ms: int, speech: Path) -> dict[str, object]:
    require_parser()
    from export.tensorrt.engine import check_parses

    options = ExportOptions(name, chunk_ms=chunk_ms, runtime="tensorrt", precision=precision)
    checkpoint = load_checkpoint(name)
    checkpoint.require_chunk(chunk_ms)
    samples = [recording.samples for recording in load_recordings(speech)]
    bundled = [recording.samples for recording in load_recordings()]
    stages, factors = rescaled_stages(checkpoint, options, bundled)
    spec = spec_of(checkpoint, stages, options)
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(Path(folder), stages, spec, samples, lambda step: print(step, file=sys.stderr))
        layers = {
            stage.name: check_parses(Path(folder) / stage.name / "1" / "model.onnx", stage)
            for stage in spec.stages
        }
        numerics = half_numerics(checkpoint, Path(folder), stages, spec, samples)
    state = {stage.name: stage.state.bytes for stage in spec.stages if stage.state}
    return {
        "checkpoint": checkpoint.name,
        "precision": precision,
        "chunk_ms": chunk_ms,
        "state_bytes_per_stream": state,
        "layers": layers,
        "rescaled": factors,
        **asdict(numerics),
    }
