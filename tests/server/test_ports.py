"""Ports of the server: free ones are chosen, impossible ones are refused before a start."""

from __future__ import annotations

import socket

import pytest

from server.errors import BadEndpoint, PortInUse
from server.ports import choose_endpoints, reserving

HOST = "127.0.0.1"


def test_free_ports_differ_and_can_be_asked_for() -> None:
    free = choose_endpoints(HOST, grpc_port=None, metrics_port=None, http_port=None)
    assert len({free.grpc_port, free.metrics_port, free.triton_metrics_port}) == 3
    again = choose_endpoints(
        HOST, grpc_port=free.grpc_port, metrics_port=free.metrics_port, http_port=None
    )
    assert (again.grpc_port, again.metrics_port) == (free.grpc_port, free.metrics_port)


def test_reserved_ports_are_for_the_server_alone() -> None:
    free = choose_endpoints(HOST, grpc_port=None, metrics_port=None, http_port=None)
    ports = (free.grpc_port, free.metrics_port, free.triton_metrics_port)
    with reserving(free):
        for port in ports:
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind((HOST, port))
            with socket.create_server((HOST, port)), socket.create_connection((HOST, port)):
                pass


def test_a_taken_port_is_named() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"{HOST}:{port} for metrics .*another --metrics-port"):
            choose_endpoints(HOST, grpc_port=None, metrics_port=port, http_port=None)


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(BadEndpoint, match=rf"--grpc-port must lie in 1\.\.65535, not {port}"):
        choose_endpoints(HOST, grpc_port=port, metrics_port=None, http_port=None)


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ((8001, 8001, None), "grpc and metrics cannot both .* 8001; choose another --metrics-port"),
        ((8001, None, 8001), "grpc and http cannot both"),
        ((None, 8002, 8002), "metrics and http cannot both"),
    ],
)
def test_one_port_for_two_services_is_refused(
    ports: tuple[int | None, int | None, int | None], message: str
) -> None:
    grpc_port, metrics_port, http_port = ports
    with pytest.raises(BadEndpoint, match=message):
        choose_endpoints(HOST, grpc_port=grpc_port, metrics_port=metrics_port, http_port=http_port)


@pytest.mark.parametrize("host", ["::1", "::", "192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_cannot_be_served_is_refused(host: str) -> None:
    with pytest.raises(BadEndpoint, match=f"the host '{host}' .*give an IPv4 address"):
        choose_endpoints(host, grpc_port=None, metrics_port=None, http_port=None)
