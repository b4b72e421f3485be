"""`python -m export.adapters ADAPTER`: serve an adapter beside the recognizer that it changes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.errors import ExportError, GateFailed

_console = Console(stderr=True)
app = typer.Typer(add_completion=False)


@app.command()
def main(
    adapter: Annotated[
        Path,
        typer.Argument(help="Folder of the adapter: `adapter` in the result of an adaptation."),
    ],
    name: Annotated[
        str, typer.Option(help="Name of the adapter, such as clinic: clients choose it.")
    ],
    checkpoint: Annotated[Path, typer.Option(help="Folder of the checkpoint that it changes.")],
    repository: Annotated[
        Path, typer.Option(help="Model repository that holds that checkpoint, with --adapters.")
    ] = Path("model_repository"),
    base: Annotated[
        str, typer.Option(help="Name of that checkpoint in the repository, if it has one.")
    ] = "",
) -> None:
    """Install an adapter after checking that its tokens are those of the merged checkpoint.

    The recognizer that it changes must be in the repository, exported with `python -m export
    --adapters`. A running server takes the adapter with `earshot models load`.
    """
    try:
        _install(adapter, checkpoint, repository, base, name)
    except GateFailed as error:
        _print_error(f"nothing was installed: {error}")
        sys.exit(1)
    except ExportError as error:
        _print_error(f"error: {error}")
        sys.exit(2)


def _print_error(message: str) -> None:
    _console.print(message, style="red", markup=False, soft_wrap=True)


def _install(adapter: Path, checkpoint: Path, repository: Path, base: str, name: str) -> None:
    # Torch and transformers take seconds to load; --help and bad options do not wait for them.
    from export.adapters.install import install_adapter
    from export.install import replacing

    with _console.status("reading the adapter") as status, replacing(repository) as new:

        def report(step: str) -> None:
            status.update(step)
            _console.print(f"  {step}")

        found = install_adapter(adapter, checkpoint, new, base, name, report)
    for ensemble, parity in found.items():
        _console.print(
            f"[green]installed[/green] {ensemble} in {repository}: {parity.audio_seconds:.0f} s of "
            f"speech with the adapter and without, {parity.reference_tokens} reference tokens, "
            f"{parity.chain_token_difference:.2%} differ"
        )
