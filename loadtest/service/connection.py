"""Connect to the server under load, in the same way from every process of a load test."""

from __future__ import annotations

import os
import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import earshot
from earshot._grpc import Credentials, read_address
from gevent import ssl as gevent_ssl

from loadtest.transport.channel import Channel

NO_RESUMING = earshot.Timeouts(resume_s=0)
"""Timeouts without resuming: a load test must not hide that a server has lost its streams."""
_TOKEN = "EARSHOT_TOKEN"
_FILES = {
    "root_certificates": "EARSHOT_ROOT_CERTIFICATES",
    "certificate": "EARSHOT_CERTIFICATE",
    "key": "EARSHOT_KEY",
}


def connect(url: str, model: str | None) -> earshot.Client:
    """Connect; raise as `earshot.connect`, OSError for a file that cannot be read."""
    return earshot.connect(url, model=model, timeouts=NO_RESUMING, **_credentials())


def connect_async(
    url: str, model: str | None, timeouts: earshot.Timeouts = NO_RESUMING
) -> AbstractAsyncContextManager[earshot.AsyncClient]:
    """Connect for the length of an `async with` block; raise as `connect`."""
    return earshot.connect_async(url, model=model, timeouts=timeouts, **_credentials())


def open_channel(url: str, timeouts: earshot.Timeouts) -> Channel:
    """Return the load generator's own transport to a server, with the same credentials."""
    address = read_address(url, Credentials(**_credentials()))
    return Channel(
        address.target,
        address.credentials.headers,
        connect_s=timeouts.connect_s,
        silence_s=2 * timeouts.keepalive_s,
        tls=_tls_context() if address.tls else None,
    )


def _tls_context() -> ssl.SSLContext:
    paths = {argument: os.environ.get(variable) or None for argument, variable in _FILES.items()}
    context: Any = gevent_ssl.create_default_context(cafile=paths["root_certificates"])
    context.set_alpn_protocols(["h2"])
    if paths["certificate"] is not None:
        context.load_cert_chain(paths["certificate"], paths["key"])
    return context


def _credentials() -> dict[str, Any]:
    """Return the token and the contents of the files named in the environment.

    They are not options, because other users of the machine can see these, and every worker would
    need them.
    """
    files = {
        argument: Path(os.environ[variable]).read_bytes()
        for argument, variable in _FILES.items()
        if os.environ.get(variable)
    }
    return {"token": os.environ.get(_TOKEN) or None, **files}
