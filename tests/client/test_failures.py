"""Status codes and messages that gRPC and Triton send become exceptions of the client."""

from __future__ import annotations

import re
from dataclasses import dataclass

import earshot
import grpc
import pytest
from earshot import ServerInfo, _errors
from earshot._failures import chunk_error, connect_error, is_broken_connection

INFO = ServerInfo(
    url="host:8001",
    server="triton 2.51.0",
    model="demo",
    precision="fp32",
    runtime="onnxruntime",
    sample_rate_hz=16000,
    chunk_ms=320,
    chunk_samples=5120,
    lead_samples=1024,
    frame_ms=80,
    max_streams=64,
    sequence_idle_ms=1500,
)


@dataclass(frozen=True)
class Failure:
    name: str
    text: str | None

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[self.name]

    def details(self) -> str | None:
        return self.text


REFUSED_CONNECTION = Failure(
    "UNAVAILABLE",
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8001: "
    "Failed to connect to remote host: Connection refused",
)
NO_SUCH_HOST = Failure(
    "UNAVAILABLE",
    "errors resolving nosuch:8001: [field:hostname lookup error:address lookup failed for "
    "nosuch:8001: Domain name not found]",
)
QUEUE_TIMEOUT = Failure(
    "UNAVAILABLE",
    "in ensemble 'asr_streaming', timeout of the corresponding sequence has been expired",
)
SHUTTING_DOWN = Failure(
    "UNAVAILABLE",
    "in ensemble 'asr_streaming', Server is stopping, scheduler for model has stopped accepting "
    "new inference requests",
)
SEQUENCE_REAPED = Failure(
    "INVALID_ARGUMENT",
    "in ensemble 'asr_streaming', inference request for sequence 5 to model 'encoder' must specify "
    "the START flag on the first request of the sequence",
)
STATE_EXPIRED = Failure(
    "INVALID_ARGUMENT",
    "in ensemble 'asr_streaming', stream 5 is not open: it was idle for longer than 2 s",
)
TOO_MANY = Failure("RESOURCE_EXHAUSTED", "too many streams")
LATE = Failure("DEADLINE_EXCEEDED", "Deadline Exceeded")
BROKEN = Failure("INTERNAL", "the engine failed on a batch of 3")
SOCKET_CLOSED = Failure("UNAVAILABLE", "Socket closed")
CANCELLED = Failure("CANCELLED", None)


@pytest.mark.parametrize(
    ("failure", "starting", "kind"),
    [
        (REFUSED_CONNECTION, True, earshot.ConnectionFailed),
        (NO_SUCH_HOST, True, earshot.ConnectionFailed),
        (SOCKET_CLOSED, True, earshot.ConnectionFailed),
        (QUEUE_TIMEOUT, True, earshot.ServerBusy),
        (SHUTTING_DOWN, True, earshot.ServerDraining),
        (TOO_MANY, True, earshot.ServerBusy),
        (TOO_MANY, False, earshot.ServerBusy),
        (LATE, True, earshot.ChunkTimeout),
        (LATE, False, earshot.ChunkTimeout),
        (REFUSED_CONNECTION, False, earshot.StreamLost),
        (SOCKET_CLOSED, False, earshot.StreamLost),
        (SHUTTING_DOWN, False, earshot.StreamLost),
        (CANCELLED, False, earshot.StreamLost),
        (SEQUENCE_REAPED, False, earshot.StreamLost),
        (STATE_EXPIRED, False, earshot.StreamLost),
        (BROKEN, True, earshot.ServerFailed),
        (BROKEN, False, earshot.ServerFailed),
    ],
)
def test_chunk_failures(failure: Failure, starting: bool, kind: type[earshot.EarshotError]) -> None:
    error = chunk_error(failure, INFO, starting=starting, deadline_s=2.5)
    assert type(error) is kind
    assert INFO.url in str(error)


def test_a_connection_that_has_ended_is_not_one_that_never_was() -> None:
    # What gRPC says while it closes a connection, and of the calls that it still gives to it.
    closing = "Stream removed (Delayed close due to in-progress write (Last stream closed after "
    assert is_broken_connection(Failure("UNAVAILABLE", closing + "sending GOAWAY"))
    assert is_broken_connection(SOCKET_CLOSED)
    assert not is_broken_connection(REFUSED_CONNECTION)


def test_messages_say_what_to_do() -> None:
    lost = chunk_error(SEQUENCE_REAPED, INFO, starting=False, deadline_s=1)
    assert "send nothing for 1.5 s (unless `keep_alive` keeps them)" in str(lost)
    late = chunk_error(LATE, INFO, starting=False, deadline_s=2.5)
    assert str(late) == "host:8001 did not answer a chunk within 2.5 s"


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (REFUSED_CONNECTION, earshot.ConnectionFailed, "no server at host:8001"),
        (LATE, earshot.ConnectionFailed, "did not answer within 3 s"),
        (Failure("UNIMPLEMENTED", None), earshot.UnsupportedServer, "does not answer like Triton"),
    ],
)
def test_connect_failures(failure: Failure, kind: type[earshot.EarshotError], message: str) -> None:
    error = connect_error(failure, "host:8001", connect_s=3.0)
    assert type(error) is kind
    assert message in str(error)


def test_the_tree_is_the_one_drawn_in_its_docstring() -> None:
    drawn = re.findall(r"[├└]── (\w+)", _errors.__doc__ or "")
    subclasses = [
        subclass.__name__
        for parent in (earshot.EarshotError, earshot.StreamError, earshot.ServerBusy)
        for subclass in parent.__subclasses__()
    ]
    assert sorted(drawn) == sorted(subclasses)
