"""What several commands share: options, and how they end on a mistake.

Commands import what is heavy where they use it, so that `--help` and bad options answer at once.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Repository = Annotated[Path, typer.Option(help="Exported models, served for the run.")]
DEFAULT_REPOSITORY = Path("model_repository")
Model = Annotated[
    str | None,
    typer.Option(
        help="Which recognizer, if the server has several. A name without its _v number means the "
        "newest."
    ),
]

console = Console(stderr=True)


@contextmanager
def exiting_on(*mistakes: type[Exception]) -> Generator[None]:
    """One of ``mistakes`` ends the command with its message and 2, without a traceback."""
    try:
        yield
    except mistakes as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
