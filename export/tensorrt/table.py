"""`python -m export.tensorrt.table REPOSITORY...`: list the engines of exported repositories.

One row for each engine, read from the manifests: model, chunk, precision, graph, layers of the
network, seconds of the build, bytes of the engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from export.tensorrt.targets import manifest_entry

_COLUMNS = ("checkpoint", "chunk_ms", "precision", "graph", "layers", "seconds", "plan_bytes")


def engines(repository: Path) -> list[dict[str, Any]]:
    """Return one row for each engine of a repository, by column; empty if it has none."""
    rows: list[dict[str, Any]] = []
    for path in sorted(repository.glob("*/1/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        facts = manifest.get(manifest_entry(manifest["runtime"]), {"engines": {}})
        for graph, engine in facts["engines"].items():
            values = {
                **engine,
                "checkpoint": manifest["checkpoint"]["name"],
                # None for whole utterances, which are not cut into chunks.
                "chunk_ms": manifest.get("chunk_ms"),
                "precision": manifest["precision"],
                "graph": graph,
            }
            rows.append({column: values[column] for column in _COLUMNS})
    return rows


def builder(repository: Path) -> dict[str, Any]:
    """Return the version of TensorRT that built a repository's engines, and their GPUs."""
    path = next(repository.glob("*/1/manifest.json"))
    manifest = json.loads(path.read_text(encoding="utf-8"))
    facts = manifest[manifest_entry(manifest["runtime"])]
    kept = ("version", "gpu", "gpus")
    return {"runtime": manifest["runtime"], **{key: facts[key] for key in kept if key in facts}}


def main(
    repositories: Annotated[list[Path], typer.Argument(help="Model repositories with engines.")],
    record: Annotated[Path | None, typer.Option(help="JSON file to write the rows to.")] = None,
) -> None:
    """Print a table of the engines in `repositories`."""
    rows = [row for repository in repositories for row in engines(repository)]
    if not rows:
        print(f"error: no engines in {', '.join(map(str, repositories))}", file=sys.stderr)
        raise SystemExit(2)
    _print(rows)
    if record:
        built = builder(repositories[0])
        record.write_text(json.dumps({**built, "engines": rows}, indent=1) + "\n", encoding="utf-8")


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("checkpoint", "chunk", "precision", "graph")
    for title in ("layers", "seconds", "MB"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row["checkpoint"],
            f"{row['chunk_ms']} ms" if row["chunk_ms"] else "whole files",
            row["precision"],
            row["graph"],
            f"{row['layers']:,}",
            f"{row['seconds']:.1f}",
            f"{row['plan_bytes'] / 1e6:.1f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
