"""Addresses, channel options and stubs of gRPC, for the blocking and the asyncio client."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

DEFAULT_PORT = 8001
_LOOPBACK = re.compile(r"localhost|127(\.\d+){1,3}|\[::1\]", re.IGNORECASE)

# The generated stub carries no types.
_stubs: Any = service_pb2_grpc


@dataclass(frozen=True)
class Address:
    """The address of a server, and whether the connection is encrypted."""

    target: str
    tls: bool
    root_certificates: bytes | None

    def credentials(self) -> Any:
        """Return the grpc.ChannelCredentials for an encrypted connection."""
        return grpc.ssl_channel_credentials(self.root_certificates)

    def options(self) -> list[tuple[str, int]]:
        """Return the channel options: loopback addresses bypass the proxy of http_proxy."""
        host = self.target.rpartition(":")[0]
        return [("grpc.enable_http_proxy", 0)] if _LOOPBACK.fullmatch(host) else []


def read_address(url: str, tls: bool, root_certificates: bytes | None) -> Address:
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
    if not target.rpartition(":")[2].isdecimal():
        target = f"{target}:{DEFAULT_PORT}"
    encrypted = tls or scheme == "grpcs" or root_certificates is not None
    return Address(target, encrypted, root_certificates)


def make_stub(channel: Any) -> Any:
    """Return Triton's calls over a blocking or an asyncio channel."""
    return _stubs.GRPCInferenceServiceStub(channel)
