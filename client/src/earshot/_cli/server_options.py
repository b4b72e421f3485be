"""The options of all commands that select a server and the credentials for it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from .._grpc import Credentials, read_addresses
from .._timeouts import Timeouts

DEFAULT_URL = "localhost:8001"


def _check_url(url: str) -> str:
    try:
        read_addresses(_split(url))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return url


def _split(url: str) -> list[str]:
    return url.split(",")


@dataclass(frozen=True)
class ServerOptions:
    """A server and how to connect to it; `takes_server` turns the fields into options."""

    url: Annotated[
        str,
        typer.Option(
            envvar="EARSHOT_URL",
            callback=_check_url,
            help="host:port, or grpcs://host:port for TLS; several with commas between them, of "
            "which the first that answers is used.",
        ),
    ] = DEFAULT_URL
    token: Annotated[
        str | None,
        typer.Option(
            envvar="EARSHOT_TOKEN",
            show_envvar=True,
            help="Token that the server asks for. Other users of this machine see options, but "
            "not variables.",
        ),
    ] = None
    root_certificates: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="PEM file to verify the server with (TLS)."),
    ] = None
    certificate: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="PEM file with the client's certificate (mutual TLS)."
        ),
    ] = None
    key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="PEM file with the certificate's key."),
    ] = None
    keepalive_s: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds without a reply after which a connection is pinged; it is given up if it "
            "stays silent for as long again. inf: never.",
        ),
    ] = Timeouts.keepalive_s

    @property
    def urls(self) -> list[str]:
        """Return the servers, in the order in which they are tried."""
        return _split(self.url)

    @property
    def only_url(self) -> str:
        """Return the server for a command that takes only one; exit if there are several."""
        if len(self.urls) > 1:
            raise typer.BadParameter(f"expected one server, got {self.url}")
        return self.url

    def arguments(self, *, resume_s: float = Timeouts.resume_s) -> dict[str, Any]:
        """Return the arguments of `connect` for these options; exit if they are contradictory."""
        arguments: dict[str, Any] = {
            "root_certificates": _content(self.root_certificates),
            "certificate": _content(self.certificate),
            "key": _content(self.key),
            "token": self.token,
        }
        try:
            Credentials(**arguments)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        timeouts = Timeouts(keepalive_s=self.keepalive_s, resume_s=resume_s)
        return {**arguments, "timeouts": timeouts}


def takes_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `ServerOptions` in place of its parameter `server`."""
    fields = inspect.signature(ServerOptions).parameters
    hints = get_type_hints(command, include_extras=True)
    del hints["server"]
    options = get_type_hints(ServerOptions, include_extras=True)

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        server = ServerOptions(**{name: arguments.pop(name) for name in fields})
        command(server=server, **arguments)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "server"]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *fields.values())]
    hinted = {**hints, **options}
    with_options.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
        [p.replace(annotation=hinted[p.name]) for p in parameters]
    )
    with_options.__annotations__ = hinted
    return with_options


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
