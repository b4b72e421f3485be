"""`python -m server.engine_time`: time the batches of a fused recognizer's engine without Triton.

The chunks per second are an upper bound for any server around the engine; the difference is the
host's share. Each stream has a recording of its own, and the state of all slots is in use.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from server.backends.earshot.earshot_runtime.engine import Engine
from server.backends.earshot.earshot_runtime.engines import open_engine
from server.backends.earshot.earshot_runtime.errors import StageError
from server.backends.earshot.earshot_runtime.spec import StageSpec

from .errors import BadRepository, UserError
from .repository import read_repository

_BATCHES = (1, 8, 32, 64, 128, 256, 512, 1024)
_WARM_UP = 3


def stage_spec(repository: Path, model: str) -> StageSpec:
    """Return the config of a model as Triton passes it to the backend."""
    path = repository / model / "config.pbtxt"
    if not path.is_file():
        raise BadRepository(f"no {path}: only recognizers in one model are timed")
    config: Any = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())  # pyright: ignore
    entries = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return StageSpec.from_model_config(entries)


def main(
    repository: Annotated[Path, typer.Option(help="Exported with --layout fused.")],
    model: Annotated[str, typer.Option(help="Name of the fused recognizer.")] = "recognizer",
    speech: Annotated[Path, typer.Option(help="Folder with recordings.")] = Path("recordings"),
    runs: Annotated[int, typer.Option(min=1, help="Batches of each size.")] = 30,
    output: Annotated[Path | None, typer.Option(help="JSON file; default: print.")] = None,
) -> None:
    """Measure milliseconds per batch and chunks per second of the engine alone, by batch size."""
    try:
        found = read_repository(repository)
        spec = stage_spec(found.path, model)
        began = time.monotonic()
        spec = spec.of_engine if spec.shares_engine else spec
        engine = open_engine(found.path / model / "1", spec)
    except (UserError, StageError) as error:
        raise typer.BadParameter(str(error)) from None
    opened_s = time.monotonic() - began
    samples = load_speech(speech)
    sizes = [size for size in _BATCHES if size < spec.max_batch] + [spec.max_batch]
    report = {
        "runtime": spec.runtime,
        "device": getattr(engine, "device_name", "cpu"),
        "chunk_samples": spec.full_length,
        "device_bytes": getattr(engine, "device_bytes", 0),
        "max_streams": spec.sequence.max_streams if spec.sequence else 0,
        "open_s": round(opened_s, 1),
        "runs": runs,
        "batches": [_time(engine, spec, samples, size, runs) for size in sizes],
    }
    write_report(report, output)


def _time(
    engine: Engine, spec: StageSpec, samples: NDArray[np.float32], batch: int, runs: int
) -> dict[str, float]:
    """Time batches that cycle through all slots, so that no state comes from a cache."""
    assert spec.sequence is not None
    streams = spec.sequence.max_streams
    took_ms: list[float] = []
    tokens = 0
    for run in range(-_WARM_UP, runs):
        slots = (np.arange(batch) + (run + _WARM_UP) * batch) % max(streams, batch)
        slots %= streams
        if len(set(slots.tolist())) < batch:
            slots = np.arange(batch) % streams
        _fill_inputs(engine, samples, batch, run + _WARM_UP, spec.full_length)
        began = time.perf_counter()
        engine.run(slots, np.full(batch, run == -_WARM_UP))
        if run >= 0:
            took_ms.append(1000 * (time.perf_counter() - began))
            tokens += int(engine.outputs["TOKEN_COUNT"][:batch].sum())
    middle = median(took_ms)
    return {
        "batch": batch,
        "ms": round(middle, 3),
        "ms_max": round(max(took_ms), 3),
        "chunks_per_s": round(1000 * batch / middle, 1),
        "tokens_per_chunk": round(tokens / (runs * batch), 2),
    }


def _fill_inputs(
    engine: Engine, samples: NDArray[np.float32], batch: int, step: int, chunk: int
) -> None:
    for row in range(batch):
        start = (row * 7919 + step * chunk) % (len(samples) - chunk)
        engine.inputs["AUDIO"][row] = samples[start : start + chunk]
    engine.inputs["AUDIO_LENGTH"][:batch] = chunk


def write_report(report: dict[str, Any], output: Path | None) -> None:
    """Write the report as JSON to a file, or print it."""
    text = json.dumps(report, indent=2)
    if output is None:
        print(text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Atomic: an interruption must not destroy the report that is there already.
        new = output.with_name(f".{output.name}.new")
        new.write_text(text + "\n")
        new.replace(output)


def load_speech(folder: Path, least_samples: int = 0) -> NDArray[np.float32]:
    """Return all recordings below `folder`, concatenated and repeated up to `least_samples`."""
    files = sorted(folder.rglob("*.flac"))
    if not files:
        raise typer.BadParameter(f"no recordings (*.flac) below {folder}")
    samples = [soundfile.read(file, dtype="float32")[0] for file in files]
    joined = np.concatenate(samples).astype(np.float32, copy=False)
    return np.resize(joined, max(least_samples, len(joined)))


if __name__ == "__main__":
    typer.run(main)
