"""`python -m export.adapters.random`: make random adapters, to measure the cost of many.

The cost of an adapter depends on its size, not on its values. The values are so small that they
change few words, and the adapters are not compared with `transformers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from export.adapters.ensemble import write_ensemble
from export.formats.packed_adapters import Parts
from export.install import replacing
from export.spec import ENSEMBLES, served_name

_DEVIATION = 1e-3
_console = Console(stderr=True)


def main(
    repository: Annotated[
        Path, typer.Option(help="Model repository with a recognizer that takes adapters.")
    ],
    count: Annotated[int, typer.Option(min=1, help="Number of adapters.")] = 300,
    base: Annotated[str, typer.Option(help="Name of that recognizer, if it has one.")] = "",
) -> None:
    """Install random adapters, named random_0 and so on, beside the recognizer `base`."""
    manifests = {role: _manifest(repository / served_name(base, role)) for role in ENSEMBLES}
    adapted = {role: found for role, found in manifests.items() if "adapters" in found}
    if not adapted:
        message = f"error: {repository} has no recognizer '{base}' that takes --adapters"
        _console.print(message, style="red", soft_wrap=True)
        raise typer.Exit(2)
    random = np.random.default_rng(0)
    names = [f"random_{number}" for number in range(count)]
    with replacing(repository) as new:
        for role, manifest in adapted.items():
            built = new.add([served_name(name, role) for name in names])
            folder, sha256 = repository / served_name(base, role), manifest["checkpoint"]["sha256"]
            for name in names:
                parts = _random_parts(random, manifest["dims"]["adapter"])
                write_ensemble(built, folder, role, sha256, name, parts)
    _console.print(f"installed {count} random adapters in {repository}")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "1" / "manifest.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _random_parts(random: np.random.Generator, layouts: Mapping[str, Any]) -> Parts:
    return {
        role: _DEVIATION
        * random.standard_normal((layout["rows"], layout["width"]), dtype=np.float32)
        for role, layout in layouts.items()
    }


if __name__ == "__main__":
    typer.run(main)
