"""Addresses, credentials, channel options and stubs, for the blocking and the asyncio client."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

DEFAULT_PORT = 8001
_LOOPBACK = re.compile(r"localhost|127(\.\d+){1,3}|\[::1\]", re.IGNORECASE)

# Triton expects the secret of a restricted protocol in a header of this prefix.
_HEADER_PREFIX = "triton-grpc-protocol-"
TOKEN_HEADER = f"{_HEADER_PREFIX}token"
ADMIN_HEADER = f"{_HEADER_PREFIX}admin-key"

# The generated stub has no types.
_stubs: Any = service_pb2_grpc

# By default, gRPC waits up to two minutes between attempts to connect, and 20 s for each.
_RECONNECT_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # By default, all channels of a process share connections: a new client could get a dead one.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Credentials:
    """The secrets that a client presents to a server, and the means to verify the server."""

    tls: bool = False
    root_certificates: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client's certificate needs its key: give both or neither")
        for secret in (self.token, self.admin_key):
            if secret is not None and not (secret.isascii() and secret.isprintable()):
                raise ValueError("a token or key must be printable ASCII, on one line")

    @property
    def encrypted(self) -> bool:
        """Return whether they require TLS."""
        return self.tls or self.root_certificates is not None or self.certificate is not None

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of every request."""
        secrets = {TOKEN_HEADER: self.token, ADMIN_HEADER: self.admin_key}
        return tuple((name, secret) for name, secret in secrets.items() if secret)


NO_CREDENTIALS = Credentials()


@dataclass(frozen=True)
class Address:
    """The address of a server, and whether the connection is encrypted."""

    target: str
    tls: bool
    credentials: Credentials

    def channel_credentials(self) -> Any:
        """Return the grpc.ChannelCredentials for an encrypted connection."""
        given = self.credentials
        return grpc.ssl_channel_credentials(given.root_certificates, given.key, given.certificate)

    def options(self, keepalive_s: float) -> list[tuple[str, int]]:
        """Return the channel options; loopback addresses bypass the proxy of http_proxy."""
        host = self.target.rpartition(":")[0]
        proxy = [("grpc.enable_http_proxy", 0)] if _LOOPBACK.fullmatch(host) else []
        return [*proxy, *_RECONNECT_OPTIONS, *_keepalive_options(keepalive_s)]


def _keepalive_options(keepalive_s: float) -> list[tuple[str, int]]:
    """Return the options that detect a dead connection after at most twice this time."""
    if math.isinf(keepalive_s):
        return []
    keepalive_ms = round(1000 * keepalive_s)
    return [
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.http2.max_pings_without_data", 0),
        # gRPC also pings to measure the bandwidth, waits a minute for the answer, and sends no
        # other ping meanwhile.
        ("grpc.http2.ping_timeout_ms", keepalive_ms),
    ]


def read_address(url: str, credentials: Credentials = NO_CREDENTIALS) -> Address:
    """Parse `host`, `host:port`, `grpc://host:port` or, encrypted, `grpcs://host:port`."""
    scheme, separator, target = url.rpartition("://")
    if separator and scheme not in ("grpc", "grpcs"):
        raise ValueError(
            f"expected host:port, grpc://host:port or grpcs://host:port, got {url!r}: "
            f"the server is reached over gRPC (port {DEFAULT_PORT} by default), not {scheme}"
        )
    target = target.rstrip("/")
    if not target:
        raise ValueError(f"no host in {url!r}")
    host, _, port = target.rpartition(":")
    if not port.isdecimal():
        target = f"{target}:{DEFAULT_PORT}"
    elif not host or not 0 < int(port) < 1 << 16:
        raise ValueError(f"expected a host and a port from 1 to 65535, got {url!r}")
    return Address(target, credentials.encrypted or scheme == "grpcs", credentials)


def read_addresses(
    url: str | Sequence[str], credentials: Credentials = NO_CREDENTIALS
) -> list[Address]:
    """Parse the URL of a server, or of several that can continue each other's streams."""
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise ValueError("expected the URL of a server, or of several, got none")
    return [read_address(url, credentials) for url in urls]


def make_stub(channel: Any, credentials: Credentials = NO_CREDENTIALS) -> Any:
    """Return Triton's calls over a blocking or an asyncio channel, with the headers they need."""
    stub = _stubs.GRPCInferenceServiceStub(channel)
    return _StubWithHeaders(stub, credentials.headers) if credentials.headers else stub


class _StubWithHeaders:
    """Adds headers to every call of a stub."""

    def __init__(self, stub: Any, headers: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._headers = headers

    def __getattr__(self, method: str) -> _CallWithHeaders:
        call = _CallWithHeaders(getattr(self._stub, method), self._headers)
        setattr(self, method, call)
        return call


class _CallWithHeaders:
    """One method of a stub; calls it, or returns a future as the blocking stub does."""

    def __init__(self, call: Any, headers: tuple[tuple[str, str], ...]) -> None:
        self._call = call
        self._headers = headers

    def __call__(
        self, request: Any, *, timeout: float, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Any:
        return self._call(request, timeout=timeout, metadata=(*metadata, *self._headers))

    def future(
        self, request: Any, *, timeout: float, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Any:
        return self._call.future(request, timeout=timeout, metadata=(*metadata, *self._headers))
