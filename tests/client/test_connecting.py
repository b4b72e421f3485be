"""Addresses, timeouts, and the parameters that a server must have before a stream can start."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import earshot
import grpc
import pytest
from earshot._grpc import read_address
from earshot._server_info import read_server_info

from tests.support import fake_recognizer
from tests.support.fake_triton import fake_triton

Connect = Callable[..., earshot.ServerInfo]


def connect_sync(url: str, **arguments: Any) -> earshot.ServerInfo:
    with earshot.connect(url, **arguments) as client:
        return client.info


def connect_async(url: str, **arguments: Any) -> earshot.ServerInfo:
    async def connect() -> earshot.ServerInfo:
        async with earshot.connect_async(url, **arguments) as client:
            return client.info

    return asyncio.run(connect())


both_clients = pytest.mark.parametrize("connect", [connect_sync, connect_async])


@contextmanager
def silent_server() -> Iterator[str]:
    """Accept connections without answering."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@both_clients
def test_everything_is_read_from_the_server(connect: Connect) -> None:
    with fake_triton(
        fake_recognizer.PARAMETERS | {"chunk_ms": "320", "chunk_samples": "5120"}
    ) as fake:
        info = connect(f"grpc://{fake.url}")
    assert info.url == fake.url
    assert info.server == "triton 9"
    assert info.model == "fake"
    assert (info.chunk_ms, info.chunk_samples, info.lead_samples) == (320, 5120, 1024)
    assert (info.max_streams, info.sequence_idle_ms) == (64, 30000)


@both_clients
def test_no_server(connect: Connect) -> None:
    with silent_server() as url:
        pass
    with pytest.raises(earshot.ConnectionFailed, match=f"no server at {url}"):
        connect(url)


@both_clients
def test_a_proxy_is_not_asked_for_loopback_addresses(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        for host in ("127.0.0.1", "localhost"):
            url = fake.url.replace("127.0.0.1", host)
            assert connect(url).url == url


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_loopback_hosts(host: str) -> None:
    address = read_address(f"grpc://{host}:8001")
    assert ("grpc.enable_http_proxy", 0) in address.options(keepalive_s=3)


@pytest.mark.parametrize("host", ["speech.example", "10.0.0.1", "127.0.0.1.example", "[::2]"])
def test_other_hosts_keep_their_proxy(host: str) -> None:
    assert "grpc.enable_http_proxy" not in dict(read_address(host).options(keepalive_s=3))


@both_clients
def test_a_server_that_never_answers(connect: Connect) -> None:
    with silent_server() as url, pytest.raises(earshot.ConnectionFailed, match=r"within 0\.2 s"):
        connect(url, timeouts=earshot.Timeouts(connect_s=0.2))


@both_clients
def test_a_server_without_the_model(connect: Connect) -> None:
    with fake_triton(None) as fake, pytest.raises(earshot.UnsupportedServer, match="has no model"):
        connect(fake.url)


@pytest.mark.parametrize("missing", fake_recognizer.PARAMETERS)
def test_each_parameter_is_needed(missing: str) -> None:
    parameters = {name: v for name, v in fake_recognizer.PARAMETERS.items() if name != missing}
    with pytest.raises(earshot.UnsupportedServer, match=f"no parameter '{missing}'"):
        read_server_info("url", "triton", parameters)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("contract_version", "3", "has contract version 3, this client 1 and 2"),
        ("contract_version", "2", "no parameter 'adapter'"),
        ("chunk_samples", "1280.5", "must be a whole number of at least 1, not '1280.5'"),
        ("max_streams", "0", "at least 1"),
        ("lead_samples", "1280", "must be less than chunk_samples"),
    ],
)
def test_parameters_that_make_no_sense(name: str, value: str, message: str) -> None:
    with pytest.raises(earshot.UnsupportedServer, match=message):
        read_server_info("url", "triton", fake_recognizer.PARAMETERS | {name: value})


@pytest.mark.parametrize(
    ("url", "target", "tls"),
    [
        ("host", "host:8001", False),
        ("host:9", "host:9", False),
        ("grpc://host:9/", "host:9", False),
        ("grpcs://host", "host:8001", True),
        ("[::1]:9", "[::1]:9", False),
        ("[::1]", "[::1]:8001", False),
    ],
)
def test_addresses(url: str, target: str, tls: bool) -> None:
    address = read_address(url)
    assert (address.target, address.tls) == (target, tls)


@pytest.mark.parametrize("url", ["http://host:8000", "grpc://", ""])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="host"):
        read_address(url)


@both_clients
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls(connect: Connect, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    output = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *output], check=True, capture_output=True)
    pem = certificate.read_bytes()
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), pem)])
    with fake_triton(fake_recognizer.PARAMETERS, credentials) as fake:
        assert connect(fake.url, root_certificates=pem).model == "fake"
        with pytest.raises(earshot.ConnectionFailed):
            connect(f"grpcs://{fake.url}")
        with pytest.raises(earshot.ConnectionFailed):
            connect(fake.url)


@pytest.mark.parametrize("name", ["connect_s", "queue_s", "chunk_s", "finish_s"])
def test_timeouts_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected a positive {name}, got 0"):
        earshot.Timeouts(**{name: 0})
