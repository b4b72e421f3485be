"""`python -m loadtest table`: make the README's tables from the committed results.

Each table stands between two comments in the README; a test compares it with the results.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadtest.options import exiting_on
from loadtest.result.baseline import ALL_SETS, BaselineResult, RecognizerComparison
from loadtest.result.document import CapacityResult
from loadtest.result.files import RESULTS, of_kind

NOTHING_YET = "No result has been committed yet."


def main(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Results. Default: those in loadtest/results.")
    ] = None,
    update: Annotated[
        Path | None, typer.Option(help="Markdown file in which to update the tables as well.")
    ] = None,
) -> None:
    """Print the committed results as Markdown tables."""
    with exiting_on(OSError, ValueError):
        blocks = tables(results or list(RESULTS.glob("*.json")))
        if update:
            text = update.read_text(encoding="utf-8")
            update.write_text(with_tables(text, blocks), encoding="utf-8")
    print("\n\n".join(_marked(name, block) for name, block in blocks.items()))


def tables(paths: Sequence[Path]) -> dict[str, str]:
    """Return the tables by name: `capacity` has a row, `baseline` a part for each result.

    Raises:
        OSError: A result cannot be read.
        ValueError: A result is not JSON, or not a valid document of its kind.
    """
    capacities = {path: CapacityResult.from_json(path) for path in of_kind(paths, "capacity")}
    baselines = [BaselineResult.from_json(path) for path in of_kind(paths, "baseline")]
    parts = [_comparison(result.comparison, result.cpu_model) for result in baselines]
    return {"capacity": _capacities(capacities), "baseline": "\n\n".join(parts) or NOTHING_YET}


def with_tables(text: str, blocks: dict[str, str]) -> str:
    """Return `text` with each table inserted between its two comments.

    Raises:
        ValueError: A comment is missing.
    """
    for name, block in blocks.items():
        begin, end = (re.escape(marker) for marker in _markers(name))
        text, found = re.subn(
            f"{begin}.*?{end}", lambda _, marked=_marked(name, block): marked, text, flags=re.S
        )
        if not found:
            raise ValueError(f"expected a line {_markers(name)[0]} and one {_markers(name)[1]}")
    return text


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"


def _marked(name: str, block: str) -> str:
    begin, end = _markers(name)
    return f"{begin}\n\n{block}\n\n{end}"


def _capacities(results: dict[Path, CapacityResult]) -> str:
    if not results:
        return NOTHING_YET
    header = ("model", "chunk", "hardware", "live streams", "per GPU or core")
    header += ("chunk latency p50 / p99", "final p99", "held", "record")
    rows = [_capacity_row(path, result) for path, result in results.items()]
    return _markdown(header, rows, numbers_from=3)


def _capacity_row(path: Path, result: CapacityResult) -> list[str]:
    given = result.conditions
    level = result.shown_level
    final = level.final_latency
    hardware = f"{given.cpu_cores} cores of {given.cpu_model}"
    if given.gpu_model:
        hardware = f"{given.gpu_count} × {given.gpu_model}, {hardware}"
    return [
        f"{given.checkpoint}, {given.runtime} {given.precision}",
        f"{given.chunk_ms} ms",
        hardware,
        {"pass": str(result.streams), "fail": "none passed", "invalid": "INVALID"}[result.verdict],
        _per_unit(result),
        f"{level.chunk_latency.p50_ms:.0f} / {level.chunk_latency.p99_ms:.0f} ms",
        "-" if final is None else f"{final.p99_ms:.0f} ms",
        f"{level.hold_s:.0f} s",
        f"[{path.stem}](loadtest/results/{path.name})",
    ]


def _per_unit(result: CapacityResult) -> str:
    if result.verdict != "pass":
        return "-"
    if result.streams_per_gpu is not None:
        return f"{result.streams_per_gpu:,.0f} per GPU"
    return "-" if result.streams_per_core is None else f"{result.streams_per_core:,.0f} per core"


def _comparison(comparison: RecognizerComparison, cpu_model: str) -> str:
    names = [recognizer.name for recognizer in comparison.recognizers]
    rows = [
        [
            f"WER, {each.name} ({each.recordings} files, {each.audio_s:.0f} s)",
            *(f"{100 * by.word_error_rate[each.name]:.1f} %" for by in comparison.recognizers),
        ]
        for each in comparison.sets
    ]
    overall = (by.word_error_rate[ALL_SETS] for by in comparison.recognizers)
    rows.append(["WER, all words", *(f"{100 * rate:.1f} %" for rate in overall)])
    per_core = (by.streams_per_core for by in comparison.recognizers)
    cells = ("-" if streams is None else f"{streams:.1f}" for streams in per_core)
    rows.append([f"streams per core of {cpu_model}", *cells])
    return _markdown(("", *names), rows, numbers_from=1)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    rule = ["---" if column < numbers_from else "---:" for column in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
