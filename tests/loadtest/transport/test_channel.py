"""The load generator's own transport against real gRPC servers."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import grpc
import hpack
import pytest
from gevent import ssl

from loadtest.service.server import free_port
from loadtest.transport.channel import Channel
from loadtest.transport.http2 import Headers, Reply
from tests.support.certificates import make_authority, sign

_grpc: Any = grpc
METHOD = "/Test/Checksum"


class Server:
    """Answers with the checksum of a request and the headers that it has seen."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.deadlines_s: list[float] = []

    def checksum(self, request: bytes, context: Any) -> bytes:
        self.headers.append(dict(context.invocation_metadata()))
        self.deadlines_s.append(context.time_remaining())
        if request.startswith(b"refuse"):
            context.abort(grpc.StatusCode.UNAVAILABLE, "kein Platz für 100 %\nStröme")
        context.send_initial_metadata((("earshot-replica", "b"),))
        return struct.pack("<I", zlib.crc32(request)) * (1 + len(request) // 1000)


@contextmanager
def serving(
    server: Server, credentials: Any = None, port: int = 0, **options: int
) -> Generator[str]:
    handler = _grpc.unary_unary_rpc_method_handler(server.checksum)
    generic = _grpc.method_handlers_generic_handler("Test", {"Checksum": handler})
    limits = [(f"grpc.{name}", value) for name, value in options.items()]
    with ThreadPoolExecutor(4) as pool:
        serving = grpc.server(pool, handlers=[generic], options=limits)
        if credentials is None:
            port = serving.add_insecure_port(f"127.0.0.1:{port}")
        else:
            port = serving.add_secure_port("127.0.0.1:0", credentials)
        serving.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            serving.stop(None).wait()


@pytest.fixture
def server() -> Server:
    return Server()


def channel_to(url: str, headers: Headers = (), tls: Any = None) -> Channel:
    return Channel(url, headers, connect_s=60.0, silence_s=60.0, tls=tls)


def call(channel: Channel, *message: bytes) -> Reply:
    with gevent.Timeout(120):
        return channel.start(channel.block(METHOD, (("grpc-timeout", "600S"),)), *message).wait()


def test_the_server_gets_headers_deadline_and_message(server: Server) -> None:
    with serving(server) as url:
        channel = channel_to(url, (("token", "c39f"),))
        reply = call(channel, b"par", b"ts")
        channel.close()
    assert reply.succeeded
    assert reply.message == struct.pack("<I", zlib.crc32(b"parts"))
    assert ("earshot-replica", "b") in reply.headers
    assert server.headers[0]["token"] == "c39f"
    assert 400 < server.deadlines_s[0] < 601


def test_requests_and_answers_larger_than_all_windows_and_more_calls_than_streams(
    server: Server,
) -> None:
    messages = [bytes([number]) * 400_000 for number in range(40)]
    with serving(server, max_concurrent_streams=3) as url:
        channel = channel_to(url)
        block = channel.block(METHOD, ())
        pending = [channel.start(block, message) for message in messages]
        with gevent.Timeout(120):
            replies = [each.wait() for each in pending]
        channel.close()
    expected = [struct.pack("<I", zlib.crc32(message)) * 401 for message in messages]
    assert not [reply.details() for reply in replies if not reply.succeeded]
    assert [reply.message for reply in replies] == expected


def test_a_server_that_has_no_room_for_half_a_second_is_asked_again() -> None:
    block = hpack.Encoder().encode([(":status", "200"), ("grpc-status", "5")])

    def answer(connection: Any) -> None:
        connection.sendall(struct.pack(">IBI", 4, 0, 0))
        buffer, refused, began_s = b"", 0, time.monotonic()
        while True:
            buffer += connection.recv(100_000)
            for stream in sent_calls(buffer)[refused:]:
                if time.monotonic() - began_s > 0.5:
                    connection.sendall(struct.pack(">IBI", len(block) << 8 | 1, 5, stream) + block)
                    return
                refused += 1
                connection.sendall(struct.pack(">IBII", 4 << 8 | 3, 0, stream, 7))

    assert reply_of(answer).code() is grpc.StatusCode.NOT_FOUND


def sent_calls(data: bytes) -> list[int]:
    """The streams of the calls of which the client has sent the header fields."""
    data = data.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    found: list[int] = []
    while len(data) >= 9:
        length, _, stream = struct.unpack_from(">IBI", data)
        if length & 0xFF == 1:
            found.append(stream)
        data = data[9 + (length >> 8) :]
    return found


def test_a_status_comes_with_its_message(server: Server) -> None:
    with serving(server) as url:
        channel = channel_to(url)
        reply = call(channel, b"refuse")
        unknown = channel.start(channel.block("/Test/Other", ()), b"").wait()
        channel.close()
    assert reply.code() is grpc.StatusCode.UNAVAILABLE
    assert reply.details() == "kein Platz für 100 %\nStröme"
    assert unknown.code() is grpc.StatusCode.UNIMPLEMENTED


def test_without_a_server_calls_fail_until_there_is_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.transport.channel._RETRY_S", 0.0)
    port = free_port()
    channel = channel_to(f"127.0.0.1:{port}")
    reply = call(channel, b"a")
    assert reply.code() is grpc.StatusCode.UNAVAILABLE
    assert "failed to connect" in reply.details()
    for _ in range(2):  # a server that stops closes the connection
        with serving(server, port=port):
            assert call(channel, b"a").succeeded
        while "failed to connect" not in call(channel, b"a").details():
            gevent.sleep(0.01)  # until the end of the connection has been noticed
    channel.close()
    assert "closed" in call(channel, b"a").details()


def reply_of(answer: Callable[[Any], None]) -> Reply:
    """The reply to one call of a server that does `answer` with its connection."""
    with gevent_server(answer) as url:
        channel = channel_to(url)
        reply = call(channel, b"a")
        channel.close()
    return reply


def test_calls_under_way_fail_when_the_connection_breaks() -> None:
    settings = struct.pack(">IBI", 4, 0, 0)

    def answer(connection: Any) -> None:
        connection.sendall(settings)
        connection.recv(1000)
        gevent.sleep(0.05)

    assert reply_of(answer).code() is grpc.StatusCode.UNAVAILABLE


def test_a_server_of_another_protocol_is_an_error() -> None:
    def answer(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(9)

    reply = reply_of(answer)
    assert reply.code() is grpc.StatusCode.UNAVAILABLE
    assert "failed to connect" in reply.details()


def test_a_server_that_says_nothing_is_waited_for_in_vain() -> None:
    with gevent_server(lambda connection: gevent.sleep(5)) as url:
        channel = Channel(url, connect_s=0.1, silence_s=8.0)
        reply = call(channel, b"a")
        channel.close()
    assert "failed to connect" in reply.details()
    assert "no answer within 0.1 s" in reply.details()


def test_tls_with_a_certificate_on_both_sides(server: Server, tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "authority")
    serves = sign(authority, "server", "IP:127.0.0.1")
    client = sign(authority, "client", "DNS:client")
    credentials = grpc.ssl_server_credentials(
        [(serves.key_pem, serves.pem)], authority.pem, require_client_auth=True
    )
    context: Any = ssl.create_default_context(cafile=str(authority.path))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(client.path, client.key_path)
    with serving(server, credentials) as url:
        channel = channel_to(url, tls=context)
        reply = call(channel, b"a" * 300_000)
        channel.close()
    assert reply.succeeded, reply.details()
    assert len(reply.message) == 4 * 301


@contextmanager
def gevent_server(handle: Any) -> Generator[str]:
    from gevent.server import StreamServer

    with_port = StreamServer(("127.0.0.1", 0), lambda connection, _: handle(connection))
    with_port.start()
    yield f"127.0.0.1:{with_port.server_port}"
    with_port.stop(timeout=0.1)
