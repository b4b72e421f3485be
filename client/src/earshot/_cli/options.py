"""The options and the exit codes that the commands of `earshot` share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from .._errors import AccessDenied, ConnectionFailed, EarshotError, UnsupportedServer
from .._stream_options import SHORTEST_ENDPOINT_MS

EndpointMs = Annotated[
    int | None,
    typer.Option(
        min=SHORTEST_ENDPOINT_MS,
        help="Silence that ends an utterance, in milliseconds; print one utterance per line.",
        show_default=False,
    ),
]

stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

Model = Annotated[
    str | None,
    typer.Option(
        envvar="EARSHOT_MODEL",
        help="Recognizer to use, if the server has several (`earshot models`). A name without its "
        "_v number selects the newest.",
    ),
]

ResumeS = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds for which a live stream tries to resume after its server is lost, at that "
        "server or another one of --url; 0: not at all.",
    ),
]


class _Messages(logging.Handler):
    """Prints what the client logs: lost servers, and late text."""

    def emit(self, record: logging.LogRecord) -> None:
        stderr.print(f"earshot: {record.getMessage()}")


@contextmanager
def _printing_messages() -> Generator[None, None, None]:
    log, messages = logging.getLogger("earshot"), _Messages()
    log.addHandler(messages)
    try:
        yield
    finally:
        log.removeHandler(messages)


@contextmanager
def exiting_on_errors() -> Generator[None, None, None]:
    """Turn an error into a message of a line or two and an exit code, without a traceback.

    Warnings of the client are printed as they come.
    """
    try:
        with _printing_messages():
            yield
    except ConnectionFailed as error:
        exit_with(
            2, f"{error}\nStart an Earshot server there, or name another with --url or EARSHOT_URL."
        )
    except (AccessDenied, UnsupportedServer) as error:
        exit_with(2, str(error))
    except EarshotError as error:
        exit_with(1, str(error))
    except KeyboardInterrupt:
        exit_with(130, "interrupted")


def exit_with(code: int, message: str) -> NoReturn:
    """End the command with a message on stderr."""
    stderr.print(f"earshot: {message}")
    raise typer.Exit(code)


def print_result(text: str) -> None:
    """Write to stdout at once; a character that its encoding lacks is escaped."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        typer.echo(text, nl=False)
    except BrokenPipeError:
        raise  # the reader closed the pipe; typer ends the command quietly
    except OSError as error:
        # Python would try to write the rest again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_with(2, f"cannot write to standard output: {error.strerror}")
