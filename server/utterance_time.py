"""`python -m server.utterance_time`: measure the seconds of audio per second of a file engine.

It measures a recognizer for torch, without Triton, on runs of real speech without padding: an upper
bound for any server around it, which has to pad files to the lengths of runs.

The most informative shapes come first, and the report is written after each of them, so that an
early end loses no measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from server.backends.earshot.earshot_runtime.engines import open_utterance_engine
from server.backends.earshot.earshot_runtime.errors import StageError
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.backends.earshot.earshot_runtime.utterance_engine import UtteranceEngine

from .engine_time import load_speech, stage_spec, write_report
from .errors import UserError
from .repository import read_repository

_SAMPLE_RATE_HZ = 16_000
_ROWS = (1, 8, 32, 64, 128, 256)
_WARM_UP = 2
"""Runs that do not count: libraries choose kernels in the first, and the second may be recorded."""
_TYPICAL_S = 15.0
"""Length of an utterance whose runs are measured first."""
_console = Console(stderr=True, highlight=False, soft_wrap=True)


def main(
    repository: Annotated[Path, typer.Option(help="Exported with --runtime torch --mode offline.")],
    model: Annotated[str, typer.Option(help="Name of the recognizer.")] = "recognizer_offline",
    speech: Annotated[Path, typer.Option(help="Folder with recordings.")] = Path("recordings"),
    runs: Annotated[int, typer.Option(min=1, help="Runs of each shape.")] = 5,
    max_s: Annotated[
        float, typer.Option(min=1, help="Skip runs with more seconds of audio.")
    ] = 1e6,
    output: Annotated[Path | None, typer.Option(help="JSON file; default: print.")] = None,
) -> None:
    """Measure milliseconds per run and seconds of audio per second, by length and rows."""
    try:
        found = read_repository(repository)
        spec = stage_spec(found.path, model)
        _console.print(f"opening {model}")
        began = time.monotonic()
        engine = open_utterance_engine(found.path / model / "1", spec)
    except (UserError, StageError) as error:
        raise typer.BadParameter(str(error)) from None
    opened_s = time.monotonic() - began
    samples = load_speech(speech, least_samples=2 * max(spec.run_lengths))
    todo = [
        (rows, length)
        for rows, length in shapes(spec.run_lengths, engine.most_rows)
        if rows * length <= max_s * _SAMPLE_RATE_HZ
    ]
    done: list[dict[str, Any]] = []
    report = {
        "runtime": spec.runtime,
        "device": getattr(engine, "device_name", "cpu"),
        "open_s": round(opened_s, 1),
        "runs": runs,
        "shapes_in_all": len(todo),
        "shapes": done,
    }
    for rows, length in todo:
        done.append(_time(engine, spec, samples, rows, length, runs))
        _console.print(f"{len(done)} of {len(todo)}: {_line(done[-1])}")
        report["device_bytes"] = getattr(engine, "device_bytes", 0)
        if output is not None:
            write_report(report, output)
    if output is None:
        write_report(report, None)


def shapes(lengths: Sequence[int], most_rows: Callable[[int], int]) -> list[tuple[int, int]]:
    """Return rows and length of the runs to measure, the most informative first.

    These are the largest runs of each length, then single utterances, then the others; in each
    group, typical lengths come first.
    """

    def rank(shape: tuple[int, int]) -> tuple[int, float]:
        rows, length = shape
        kind = 0 if rows == most_rows(length) else 1 if rows == 1 else 2
        return kind, abs(length - _TYPICAL_S * _SAMPLE_RATE_HZ)

    every = [
        (rows, length)
        for length in lengths
        for rows in sorted({*_ROWS, most_rows(length)})
        if rows <= most_rows(length)
    ]
    return sorted(every, key=rank)


def _line(shape: dict[str, Any]) -> str:
    return (
        f"{shape['rows']} rows of {shape['length_s']} s: {shape['ms']} ms, "
        f"{shape['audio_s_per_s']:,.0f} s/s"
    )


def _time(
    engine: UtteranceEngine,
    spec: StageSpec,
    samples: NDArray[np.float32],
    rows: int,
    length: int,
    runs: int,
) -> dict[str, Any]:
    took_s: list[float] = []
    outputs: list[NDArray[Any]] = []
    for run in range(-_WARM_UP, runs):
        starts = (np.arange(rows) * 7919 + run * 104_729) % (len(samples) - length)
        audio = np.stack([samples[start : start + length] for start in starts])
        lengths = np.full((rows, 1), length, np.int32)
        began = time.perf_counter()
        outputs = engine.run([audio, lengths])
        if run >= 0:
            took_s.append(time.perf_counter() - began)
    middle_s, audio_s = median(took_s), rows * length / _SAMPLE_RATE_HZ
    return {
        "rows": rows,
        "length_s": round(length / _SAMPLE_RATE_HZ, 2),
        "ms": round(1000 * middle_s, 2),
        "ms_max": round(1000 * max(took_s), 2),
        "audio_s_per_s": round(audio_s / middle_s, 1),
        **_tokens(spec, outputs, audio_s),
    }


def _tokens(spec: StageSpec, outputs: Sequence[NDArray[Any]], audio_s: float) -> dict[str, float]:
    """Return the tokens per second of the last run, with which the rounds of a decoder grow."""
    if spec.length_output is None:  # CTC, which has no rounds
        return {}
    names = [tensor.name for tensor in spec.outputs]
    count = int(outputs[names.index(spec.length_output)].sum())
    return {"tokens_per_audio_s": round(count / audio_s, 2)}


if __name__ == "__main__":
    typer.run(main)
