"""Options that name the server, and the exit codes, for all commands of `earshot`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from .._errors import ConnectionFailed, EarshotError, UnsupportedServer
from .._grpc import read_address

stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

DEFAULT_URL = "localhost:8001"


def _check_url(url: str) -> str:
    try:
        read_address(url, tls=False, root_certificates=None)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return url


Url = Annotated[
    str,
    typer.Option(
        envvar="EARSHOT_URL",
        callback=_check_url,
        help="host:port, or grpcs://host:port for TLS.",
    ),
]
RootCertificates = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="PEM file to verify the server with (TLS)."),
]
Model = Annotated[
    str | None,
    typer.Option(
        envvar="EARSHOT_MODEL",
        help="Recognizer to use, if the server has several (`earshot models`). A name without its "
        "_v number selects the newest.",
    ),
]


@contextmanager
def exiting_on_errors() -> Generator[None, None, None]:
    """Turn an error into a message of a line or two and an exit code, without a traceback."""
    try:
        yield
    except ConnectionFailed as error:
        exit_with(
            2, f"{error}\nStart an Earshot server there, or name another with --url or EARSHOT_URL."
        )
    except UnsupportedServer as error:
        exit_with(2, str(error))
    except EarshotError as error:
        exit_with(1, str(error))
    except KeyboardInterrupt:
        exit_with(130, "interrupted")


def exit_with(code: int, message: str) -> NoReturn:
    """End the command with a message on stderr."""
    stderr.print(f"earshot: {message}")
    raise typer.Exit(code)


def read_bytes(path: Path | None) -> bytes | None:
    """Return the content of a file, or None without a path."""
    return None if path is None else path.read_bytes()
