"""`python -m server.utterance_time`: seconds of audio per second of an engine for whole files.

It measures a recognizer for torch alone, without Triton, on runs of real speech that fill their
length: an upper bound for any server around it, whose files are padded to the lengths of runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from server.backends.earshot.earshot_runtime.engines import open_utterance_engine
from server.backends.earshot.earshot_runtime.errors import StageError
from server.backends.earshot.earshot_runtime.utterance_engine import UtteranceEngine

from .engine_time import load_speech, stage_spec, write_report
from .errors import UserError
from .repository import read_repository

_SAMPLE_RATE_HZ = 16_000
_ROWS = (1, 8, 32, 64, 128, 256)
_WARM_UP = 2


def main(
    repository: Annotated[Path, typer.Option(help="Exported with --runtime torch --mode offline.")],
    model: Annotated[str, typer.Option(help="Name of the recognizer.")] = "recognizer_offline",
    speech: Annotated[Path, typer.Option(help="Folder with recordings.")] = Path("recordings"),
    runs: Annotated[int, typer.Option(min=1, help="Runs of each shape.")] = 10,
    max_s: Annotated[
        float, typer.Option(min=1, help="Leave out runs with more seconds of audio.")
    ] = 1e6,
    output: Annotated[Path | None, typer.Option(help="JSON file; default: print.")] = None,
) -> None:
    """Measure milliseconds per run and seconds of audio per second, by length and rows."""
    try:
        found = read_repository(repository)
        spec = stage_spec(found.path, model)
        began = time.monotonic()
        engine = open_utterance_engine(found.path / model / "1", spec)
    except (UserError, StageError) as error:
        raise typer.BadParameter(str(error)) from None
    opened_s = time.monotonic() - began
    samples = load_speech(speech, least_samples=2 * max(spec.run_lengths))
    shapes = [
        (rows, length)
        for length in spec.run_lengths
        for rows in sorted({*_ROWS, engine.most_rows(length)})
        if rows <= engine.most_rows(length) and rows * length <= max_s * _SAMPLE_RATE_HZ
    ]
    report = {
        "runtime": found.runtime,
        "device": getattr(engine, "device_name", "cpu"),
        "open_s": round(opened_s, 1),
        "runs": runs,
        "shapes": [_time(engine, samples, rows, length, runs) for rows, length in shapes],
        "device_bytes": getattr(engine, "device_bytes", 0),
    }
    write_report(report, output)


def _time(
    engine: UtteranceEngine, samples: NDArray[np.float32], rows: int, length: int, runs: int
) -> dict[str, Any]:
    took_s: list[float] = []
    for run in range(-_WARM_UP, runs):
        starts = (np.arange(rows) * 7919 + run * 104_729) % (len(samples) - length)
        audio = np.stack([samples[start : start + length] for start in starts])
        lengths = np.full((rows, 1), length, np.int32)
        began = time.perf_counter()
        engine.run([audio, lengths])
        if run >= 0:
            took_s.append(time.perf_counter() - began)
    middle_s, audio_s = median(took_s), rows * length / _SAMPLE_RATE_HZ
    return {
        "rows": rows,
        "length_s": round(length / _SAMPLE_RATE_HZ, 2),
        "ms": round(1000 * middle_s, 2),
        "ms_max": round(1000 * max(took_s), 2),
        "audio_s_per_s": round(audio_s / middle_s, 1),
    }


if __name__ == "__main__":
    typer.run(main)
