"""`python -m loadtest client`: measure the CPU time of the client per chunk.

A fake service in another process answers at once. Each round measures every kind of stream once, in
a new process. CPU time depends much less on other work on the machine than elapsed time does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import PROJECT, RECORDINGS, Output, console, exiting_on

CHUNK_MS = 160


@dataclass(frozen=True)
class _Kind:
    """A kind of stream."""

    name: str
    timeouts: dict[str, float]
    options: dict[str, Any]
    source: Path = PROJECT / "client" / "src"


KINDS = (
    _Kind("nothing kept to resume", {"resume_s": 0}, {}),
    _Kind("default: may be resumed", {}, {}),
    _Kind("default, keep_alive", {}, {"keep_alive": True}),
    _Kind("default, endpoint_ms=500", {}, {"endpoint_ms": 500}),
)


def client(
    before: Annotated[
        Path | None,
        typer.Option(
            help="Sources of another version of the client, to measure in turn: client/src of "
            "another checkout."
        ),
    ] = None,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks of each measurement.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each kind.")] = 5,
    output: Output = Path("build/client.json"),
) -> None:
    """Measure the CPU time of the client per chunk."""
    from loadtest.result.files import require_writable, write_whole
    from loadtest.selftest.fake_service import Truth, fake_service

    kinds = list(KINDS)
    if before is not None:
        kinds.append(_Kind(f"version before: {_commit(before)}", {}, {}, before.resolve()))
    figures: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    with exiting_on(OSError, ValueError):
        require_writable(output)
        with fake_service(Truth(CHUNK_MS)) as url, console.status("streaming") as status:
            for number in range(rounds):
                for kind in kinds:
                    status.update(f"round {number + 1} of {rounds}: {kind.name}")
                    figures[kind.name].append(_measure(url, kind, chunks))
        result = _document(figures, chunks, rounds)
        write_whole(output, json.dumps(result, indent=1) + "\n")
    Console().print(_table(result))


def _measure(url: str, kind: _Kind, chunks: int) -> float:
    """Return the microseconds of CPU time per chunk of one stream.

    Raises:
        ValueError: The client failed.
    """
    arguments = [str(chunks), json.dumps(kind.timeouts), json.dumps(kind.options)]
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.compare.client_worker", url, str(RECORDINGS), *arguments],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(kind.source)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(f"{kind.name}: {done.stderr.strip()}")
    return float(done.stdout)


def _commit(folder: Path) -> str:
    """Return the commit of a checkout, or the name of a folder that is not one."""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or folder.name


def _document(figures: dict[str, list[float]], chunks: int, rounds: int) -> dict[str, Any]:
    from loadtest.result.machine import cpu_model, now

    return {
        "kind": "client",
        "chunk_ms": CHUNK_MS,
        "chunks": chunks,
        "cpu_us_per_chunk": {
            name: {
                "median": round(median(values), 1),
                "least": round(min(values), 1),
                "rounds": [round(value, 1) for value in values],
            }
            for name, values in figures.items()
        },
        "machine": cpu_model(),
        "python": sys.version.split()[0],
        "command": f"python -m loadtest client --chunks {chunks} --rounds {rounds}",
        "measured": now(),
    }


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"µs of CPU time of the client per chunk of {result['chunk_ms']} ms")
    for column in ("stream", "median", "least"):
        table.add_column(column, justify="left" if column == "stream" else "right")
    for name, figures in result["cpu_us_per_chunk"].items():
        table.add_row(name, f"{figures['median']:.0f}", f"{figures['least']:.0f}")
    return table
