"""Choose the ports of the server, and refuse unusable ports before Triton starts."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .errors import BadEndpoint, PortInUse

MAX_PORT = 65535
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Endpoints:
    """Host and ports that the server listens on; HTTP is off if `http_port` is None."""

    host: str
    grpc_port: int
    metrics_port: int
    http_port: int | None
    triton_metrics_port: int
    """Port of Triton's own metrics, on loopback; the server's page of metrics includes them."""

    @property
    def triton_metrics_url(self) -> str:
        """Return the URL of Triton's own metrics."""
        return f"http://{LOOPBACK}:{self.triton_metrics_port}/metrics"

    @property
    def grpc_url(self) -> str:
        """Return `host:port` for gRPC."""
        return f"{self.host}:{self.grpc_port}"


def choose_endpoints(
    host: str, *, grpc_port: int | None, metrics_port: int | None, http_port: int | None
) -> Endpoints:
    """Return the requested ports after a check that they are free.

    A free port is chosen for a `grpc_port` or `metrics_port` that is None. HTTP is off if
    `http_port` is None.

    Raises:
        BadEndpoint: the server can never listen there.
        PortInUse: a port is taken.
    """
    _check_host(host)
    ports = {"grpc": grpc_port, "metrics": metrics_port, "http": http_port}
    asked = {purpose: port for purpose, port in ports.items() if port is not None}
    _check_distinct(asked)
    for purpose, port in asked.items():
        _check_port(host, port, purpose)
    taken = set(asked.values())
    if grpc_port is None:
        grpc_port = _free_port(host, taken)
    if metrics_port is None:
        metrics_port = _free_port(host, {*taken, grpc_port})
    own = _free_port(LOOPBACK, {*taken, grpc_port, metrics_port})
    return Endpoints(host, grpc_port, metrics_port, http_port, own)


@contextmanager
def reserving(endpoints: Endpoints) -> Generator[None]:
    """Reserve the ports for the length of the block, so that no program gets one as free.

    tritonserver takes seconds to load its models before it listens. A bound port is not given to
    other programs as a free one; the server itself can still bind it, because nothing listens on it
    here.
    """
    host = endpoints.host
    addresses = [(host, endpoints.grpc_port), (host, endpoints.metrics_port)]
    addresses.append((LOOPBACK, endpoints.triton_metrics_port))
    with ExitStack() as stack:
        for address in addresses:
            holder = stack.enter_context(socket.socket(socket.AF_INET))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(address)
        yield


def _check_host(host: str) -> None:
    # IPv4 only: Triton joins host and port with a colon and without the brackets of IPv6.
    try:
        with socket.socket(socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise BadEndpoint(
            f"cannot listen on the host '{host}' ({error.strerror}); give an IPv4 address of this "
            "machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
        ) from error


def _check_distinct(asked: dict[str, int]) -> None:
    purpose_of: dict[int, str] = {}
    for purpose, port in asked.items():
        other = purpose_of.setdefault(port, purpose)
        if other != purpose:
            raise BadEndpoint(
                f"{other} and {purpose} cannot both listen on port {port}; "
                f"choose another --{purpose}-port"
            )


def _check_port(host: str, port: int, purpose: str) -> None:
    if not 1 <= port <= MAX_PORT:
        raise BadEndpoint(f"--{purpose}-port must lie in 1..{MAX_PORT}, not {port}")
    with socket.socket(socket.AF_INET) as probe:
        # As Triton does, so that a port in TIME_WAIT from an earlier server counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUse(
                f"cannot listen on {host}:{port} for {purpose} ({error.strerror}); "
                f"stop what listens there or choose another --{purpose}-port"
            ) from error


def _free_port(host: str, taken: set[int]) -> int:
    while True:
        with socket.socket(socket.AF_INET) as probe:
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
