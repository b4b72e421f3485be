"""`python -m export.heads HEAD...`: add heads to a recognizer of a model repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.errors import ExportError, GateFailed
from export.spec import STREAMING, served_name

_console = Console(stderr=True)
app = typer.Typer(add_completion=False)


@app.command()
def main(
    heads: Annotated[
        list[Path], typer.Argument(help="Folders written by `python -m training head`.")
    ],
    name: Annotated[
        str, typer.Option(help="Name of the recognizer with these heads; clients choose it.")
    ],
    checkpoint: Annotated[
        Path, typer.Option(help="Local folder of the checkpoint of base and heads.")
    ] = Path("checkpoints/demo"),
    base: Annotated[
        str,
        typer.Option(help="Recognizer of the repository to add the heads to, if it has a name."),
    ] = "",
    head: Annotated[
        list[str] | None, typer.Option(help="Serve this head only; repeatable. Default: all.")
    ] = None,
    repository: Annotated[Path, typer.Option(help="Model repository that holds the base.")] = Path(
        "model_repository"
    ),
) -> None:
    """Serve heads as an additional stage of a recognizer, whose models stay as they are.

    A running server loads them with `earshot models load NAME`; streams of the base continue.
    Labels and probabilities are compared with transformers before anything is installed.
    """
    from export.checkpoint import load_checkpoint
    from export.heads.export import HeadOptions, export_heads

    try:
        options = HeadOptions(
            tuple(heads), str(checkpoint), name, base, repository, tuple(head or ())
        )
        with _console.status("loading the checkpoint") as status:
            loaded = load_checkpoint(options.checkpoint)

            def report(step: str) -> None:
                status.update(step)
                _console.print(f"  {step}")

            parity = export_heads(options, loaded, report)
    except GateFailed as error:
        _print_error(f"nothing was installed: {error}")
        sys.exit(1)
    except ExportError as error:
        _print_error(f"error: {error}")
        sys.exit(2)
    _console.print(
        f"  {parity.audio_seconds:.0f} s of speech, {parity.labels} labels: "
        f"{parity.chain_label_difference:.2%} differ, probabilities by up to "
        f"{parity.chain_max_difference:.1g}"
    )
    _console.print(f"[green]installed[/green] {served_name(name, STREAMING)} in {repository}")


def _print_error(message: str) -> None:
    _console.print(message, style="red", markup=False, soft_wrap=True)
