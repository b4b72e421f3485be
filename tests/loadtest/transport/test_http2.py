"""Frames that real gRPC servers seldom send, as RFC 9113 allows them, and those it forbids."""

from __future__ import annotations

import struct

import grpc
import hpack
import pytest

from loadtest.transport.http2 import Connection, ProtocolError, Reply, UnaryCall, request_block

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
BLOCK = request_block("host:1", "http", "/a/b", (("x", "y"),))


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def fields(*headers: tuple[str, str]) -> bytes:
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in headers])


FIRST = fields((":status", "200"), ("content-type", "application/grpc"))
LAST = fields(("grpc-status", "0"), ("grpc-message", ""))
MESSAGE = b"\0" + struct.pack(">I", 3) + b"yes"


def begun(calls: int = 1, size: int = 10) -> tuple[Connection, list[Reply]]:
    """A connection with calls under way, whose requests have been sent as far as possible."""
    connection, replies = Connection(), list[Reply]()
    for _ in range(calls):
        connection.start(UnaryCall(BLOCK, [bytes(size)], replies.append))
    return connection, replies


def receive(connection: Connection, data: bytes) -> list[Reply]:
    return [reply for _, reply in connection.receive(data)]


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """The frames that were sent, after the preface if it is there."""
    data = data.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    found: list[tuple[int, int, int, bytes]] = []
    while data:
        length, flags, stream = struct.unpack_from(">IBI", data)
        end = 9 + (length >> 8)
        found.append((length & 0xFF, flags, stream, data[9:end]))
        data = data[end:]
    return found


def test_an_answer_may_be_cut_anywhere() -> None:
    connection, _ = begun()
    padded = b"\x02" + MESSAGE[:4] + b"\0\0"
    answer = (
        frame(SETTINGS, 0, 0, b"")
        + frame(HEADERS, 0, 1, FIRST[:3])
        + frame(CONTINUATION, 0, 1, FIRST[3:4])
        + frame(CONTINUATION, END_HEADERS, 1, FIRST[4:])
        + frame(DATA, PADDED, 1, padded)
        + frame(0x42, 0xFF, 0, b"of a kind that does not exist")
        + frame(DATA, 0, 1, MESSAGE[4:])
        + frame(HEADERS, END_STREAM | END_HEADERS, 1, LAST)
    )
    replies = [reply for byte in answer for reply in receive(connection, bytes([byte]))]
    assert [reply.message for reply in replies] == [b"yes"]
    assert connection.calls == 0


def test_the_peer_s_windows_and_frames_are_kept_to() -> None:
    connection, _ = begun(calls=2, size=50_000)
    sent = frames(connection.take_bytes())
    assert sum(len(data) for kind, _, _, data in sent if kind == DATA) == 65_535
    assert max(len(data) for _, _, _, data in sent) == 16_384
    # More for the connection, less for each stream, larger frames.
    connection.receive(frame(WINDOW, 0, 0, struct.pack(">I", 1_000_000)))
    assert sum(len(data) for *_, data in frames(connection.take_bytes())) == 100_010 - 65_535
    connection.receive(frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 10, 5, 20_000)))
    connection.start(UnaryCall(BLOCK, [bytes(50_000)], lambda reply: None))
    assert [len(data) for kind, *_, data in frames(connection.take_bytes()) if kind == DATA] == [10]
    connection.receive(frame(WINDOW, 0, 5, struct.pack(">I", 100_000)))
    sent = frames(connection.take_bytes())
    assert [len(data) for *_, data in sent] == [20_000, 20_000, 9_995]
    assert sent[-1][1] == END_STREAM


def test_a_call_that_the_peer_refuses_unseen_is_sent_again_but_not_for_ever() -> None:
    connection, _ = begun()
    replies: list[Reply] = []
    stream = -1
    while not replies:
        stream += 2
        replies += receive(connection, frame(RST, 0, stream, struct.pack(">I", 7)))
        connection.resume()
    sent = [stream for kind, _, stream, _ in frames(connection.take_bytes()) if kind == DATA]
    assert sent == list(range(1, 42, 2))
    assert [reply.code() for reply in replies] == [grpc.StatusCode.UNAVAILABLE]


def test_after_a_refusal_no_call_is_started_until_the_pause_has_ended() -> None:
    connection, replies = begun(2)
    connection.take_bytes()
    receive(connection, frame(RST, 0, 3, struct.pack(">I", 7)))
    connection.start(UnaryCall(BLOCK, [b"later"], replies.append))
    assert connection.is_paused
    assert not connection.take_bytes()
    connection.resume()
    sent = [stream for kind, _, stream, _ in frames(connection.take_bytes()) if kind == HEADERS]
    assert sent == [5, 7]


def test_settings_and_pings_are_answered() -> None:
    connection, _ = begun()
    connection.take_bytes()
    connection.receive(frame(SETTINGS, 0, 0, b"") + frame(PING, 0, 0, b"12345678"))
    assert frames(connection.take_bytes()) == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"12345678")]


def test_a_peer_that_goes_away_leaves_the_calls_that_it_has_not_seen() -> None:
    connection, _ = begun(calls=2)
    assert not connection.take_orphans()
    assert not receive(connection, frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0) + b"max_age"))
    assert not connection.takes_calls
    assert len(connection.take_orphans()) == 1
    assert connection.calls == 1
    trailers_only = frame(HEADERS, END_STREAM | END_HEADERS, 1, fields(("grpc-status", "5")))
    [reply] = receive(connection, trailers_only)
    assert reply.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("answer", "code", "details"),
    [
        (frame(RST, 0, 1, struct.pack(">I", 8)), "CANCELLED", "RST_STREAM"),
        (
            frame(HEADERS, 5, 1, fields((":status", "503"), ("server", "proxy"))),
            "UNAVAILABLE",
            "http2 header with status: 503",
        ),
        (
            frame(HEADERS, 4, 1, FIRST) + frame(DATA, 0, 1, b"\0\0") + frame(HEADERS, 5, 1, LAST),
            "INTERNAL",
            "expected one message",
        ),
    ],
)
def test_a_call_that_fails_has_the_status_of_grpc(answer: bytes, code: str, details: str) -> None:
    connection, _ = begun()
    [reply] = receive(connection, answer)
    assert reply.code().name == code
    assert details in reply.details()


@pytest.mark.parametrize(
    "data",
    [
        frame(CONTINUATION, END_HEADERS, 1, FIRST),
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff"),
        frame(WINDOW, 0, 0, b"1"),
        frame(SETTINGS, 0, 0, b"1"),
    ],
)
def test_broken_frames_are_an_error(data: bytes) -> None:
    connection, _ = begun()
    with pytest.raises(ProtocolError):
        connection.receive(data)


def test_calls_that_ended_before_a_broken_frame_are_not_lost() -> None:
    connection, _ = begun(calls=2)
    ended = frame(HEADERS, 5, 1, fields((":status", "200"), ("grpc-status", "5")))
    with pytest.raises(ProtocolError):
        connection.receive(ended + frame(WINDOW, 0, 0, b"1"))
    replies = [reply for _, reply in connection.fail(grpc.StatusCode.UNAVAILABLE, "broken")]
    assert [reply.code().name for reply in replies] == ["NOT_FOUND", "UNAVAILABLE"]


def test_a_request_that_is_refused_early_is_not_sent_on() -> None:
    connection, _ = begun(size=100_000)
    connection.take_bytes()
    refused = frame(HEADERS, 5, 1, fields((":status", "200"), ("grpc-status", "8")))
    [reply] = receive(connection, refused)
    assert reply.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [(kind, stream) for kind, _, stream, _ in frames(connection.take_bytes())] == [(RST, 1)]
