"""`earshot models`: list, load, unload and retire the recognizers of a running server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .._handshake import UNNAMED
from .._repository import ModelStatus, Repository
from .._sync import open_repository
from .options import exiting_on_errors, stderr
from .server_options import ServerOptions, takes_server

models = typer.Typer(
    name="models",
    help="List the recognizers of a server; load, unload and retire them while it serves.",
    rich_markup_mode=None,
)

_Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        help=f"Recognizer as `earshot models` lists it; '{UNNAMED}' is the unnamed one.",
    ),
]


_AdminKey = Annotated[
    str | None,
    typer.Option(
        envvar="EARSHOT_ADMIN_KEY",
        show_envvar=True,
        help="Key of the server's --admin-key-file, if it has one.",
    ),
]


@models.callback(invoke_without_command=True)
@takes_server
def listing(
    context: typer.Context,
    server: ServerOptions,
    admin_key: _AdminKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List the recognizers of a server; load, unload and retire them while it serves.

    \b
    earshot models
    earshot models load clinic_v2
    earshot models retire clinic_v1

    Loading and unloading need a server that allows it: python -m server --model-control.
    """  # noqa: D301 (typer wants the character)
    if context.invoked_subcommand is not None:
        _refuse_misplaced_options(context)
        return
    with _repository(server, admin_key) as repository:
        statuses = repository.statuses()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(status) for status in statuses]))
    else:
        _print(statuses)


@models.command()
@takes_server
def load(name: _Name, server: ServerOptions, admin_key: _AdminKey = None) -> None:
    """Load a recognizer of the server's repository, and return when it serves."""
    with _repository(server, admin_key) as repository, stderr.status(f"loading {name}"):
        repository.load(_unquoted(name))
    typer.echo(f"{name} is live")


@models.command()
@takes_server
def unload(name: _Name, server: ServerOptions, admin_key: _AdminKey = None) -> None:
    """Unload a recognizer at once, which breaks off its open streams. See `retire`."""
    with _repository(server, admin_key) as repository, stderr.status(f"unloading {name}"):
        repository.unload(_unquoted(name))
    typer.echo(f"{name} is unloaded")


@models.command()
@takes_server
def retire(
    name: _Name,
    server: ServerOptions,
    admin_key: _AdminKey = None,
    metrics_url: Annotated[
        str | None,
        typer.Option(help="Metrics of the server; by default at port 8002 of the same host."),
    ] = None,
    quiet_s: Annotated[
        float, typer.Option(min=2, help="Unload when it has been idle for this long.")
    ] = 3.0,
    timeout_s: Annotated[
        float, typer.Option(min=0, help="Give up after this long, without unloading.")
    ] = 3600.0,
) -> None:
    """Wait until the last stream and file of a recognizer have ended, then unload it.

    Move its clients to the new recognizer first. Clients that connect with the name of the family
    (clinic) move when they next connect or call `refresh`.
    """
    with (
        _repository(server, admin_key) as repository,
        stderr.status(f"waiting for the streams of {name}") as status,
    ):
        repository.retire(
            _unquoted(name),
            metrics_url or f"http://{repository.host}:8002/metrics",
            quiet_s,
            timeout_s,
            lambda live: status.update(f"{name}: {live} open streams"),
        )
    typer.echo(f"{name} is retired")


def _refuse_misplaced_options(context: typer.Context) -> None:
    """Refuse options before the subcommand: they belong to the list, and would be ignored."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "json" if name == "as_json" else name.replace("_", "-")
            raise typer.BadParameter(
                f"put --{option} after '{context.invoked_subcommand}', if that command takes it"
            )


@contextmanager
def _repository(server: ServerOptions, admin_key: str | None) -> Generator[Repository, None, None]:
    with (
        exiting_on_errors(),
        open_repository(server.only_url, admin_key=admin_key, **server.arguments()) as repository,
    ):
        yield repository


def _unquoted(name: str) -> str:
    return "" if name == UNNAMED else name


def _print(statuses: list[ModelStatus]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("name", "mode", "state", "checkpoint", "precision", "chunk", "reason"):
        table.add_column(column, no_wrap=True)
    for status in statuses:
        table.add_row(
            status.name,
            status.mode,
            status.state,
            status.checkpoint,
            status.precision,
            f"{status.chunk_ms} ms" if status.chunk_ms else "",
            status.reason,
        )
    # Wide enough for whole rows even without a terminal, because scripts read them.
    Console(width=200, highlight=False, markup=False).print(table)
