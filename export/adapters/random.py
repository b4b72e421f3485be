"""`python -m export.adapters.random`: adapters with random weights, to measure what many cost.

The cost of an adapter depends on its size, not on its values. These are so small that they change
few words, and they are not compared with `transformers`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from export.adapters.ensemble import write_ensemble
from export.install import replacing
from export.spec import served_name
from export.streaming.spec import ENSEMBLE

_DEVIATION = 1e-3
_console = Console(stderr=True)


def main(
    repository: Annotated[
        Path, typer.Option(help="Model repository with a recognizer that takes adapters.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 300,
    base: Annotated[str, typer.Option(help="Name of that recognizer, if it has one.")] = "",
) -> None:
    """Install random adapters, named random_0 and so on, beside the recognizer `base`."""
    folder = repository / served_name(base, ENSEMBLE)
    manifest: dict[str, Any] = json.loads((folder / "1" / "manifest.json").read_text())
    layouts = manifest["dims"].get("adapter")
    if layouts is None:
        message = f"error: {folder} was exported without --adapters"
        _console.print(message, style="red", soft_wrap=True)
        raise typer.Exit(2)
    random = np.random.default_rng(0)
    with replacing(repository) as new:
        names = [f"random_{number}" for number in range(count)]
        built = new.add([served_name(name, ENSEMBLE) for name in names])
        for name in names:
            parts = {
                role: _DEVIATION
                * random.standard_normal((layout["rows"], layout["width"]), dtype=np.float32)
                for role, layout in layouts.items()
            }
            write_ensemble(built, folder, manifest["checkpoint"]["sha256"], name, parts)
    _console.print(f"installed {count} random adapters in {repository}")


if __name__ == "__main__":
    typer.run(main)
