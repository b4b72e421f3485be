"""gRPC status codes to this package's exceptions: what happened, and what to do about it."""

from __future__ import annotations

import re
from typing import Protocol

from ._errors import (
    ChunkTimeout,
    ConnectionFailed,
    EarshotError,
    ServerBusy,
    ServerFailed,
    StreamLost,
    UnsupportedServer,
)
from ._server_info import OfflineInfo, ServerInfo

# gRPC reports its own connection troubles and a server's refusal with one code, UNAVAILABLE;
# only the words differ.
_NO_CONNECTION = re.compile(
    r"failed to connect|errors resolving|name resolution|socket closed|connection (reset|refused)"
    r"|recvmsg|broken pipe|goaway|ping timeout|endpoint closing|handshake",
    re.IGNORECASE,
)
# Triton's words after it has dropped an idle sequence, and those of the bundled backend.
_UNKNOWN_STREAM = re.compile(r"START flag|is not open")

# What a server answers as often as it is asked the same.
_FINAL = {
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNIMPLEMENTED",
}


class StatusCode(Protocol):
    """What is needed of grpc.StatusCode."""

    @property
    def name(self) -> str: ...


class RpcFailure(Protocol):
    """What is needed of the errors of grpc and of grpc.aio."""

    def code(self) -> StatusCode: ...

    def details(self) -> str | None: ...


def connect_error(failure: RpcFailure, url: str, connect_s: float) -> EarshotError:
    """Why `connect` failed."""
    code, details = _read(failure)
    if code == "UNAVAILABLE":
        return ConnectionFailed(f"no server at {url}: {details}")
    if code == "DEADLINE_EXCEEDED":
        return ConnectionFailed(f"{url} did not answer within {connect_s:g} s")
    return UnsupportedServer(f"{url} does not answer as Triton does: {code}: {details}")


def chunk_error(
    failure: RpcFailure, info: ServerInfo, *, starting: bool, deadline_s: float
) -> EarshotError:
    """Why a chunk got no answer; `starting` if it was the first of its stream."""
    code, details = _read(failure)
    if code == "DEADLINE_EXCEEDED":
        return chunk_timeout(info, starting=starting, deadline_s=deadline_s)
    if code == "NOT_FOUND":
        return StreamLost(f"{info.url} no longer serves {info.ensemble}: {details}")
    if code == "RESOURCE_EXHAUSTED" or (code == "UNAVAILABLE" and starting):
        if _NO_CONNECTION.search(details):
            return ConnectionFailed(f"no server at {info.url}: {details}")
        return ServerBusy(f"{info.url} has no place for the stream: {details}")
    if code in ("UNAVAILABLE", "CANCELLED"):
        return StreamLost(f"{info.url} is gone, and the stream with it: {details}")
    if not starting and _UNKNOWN_STREAM.search(details):
        return StreamLost(
            f"{info.url} no longer knows the stream. It forgets streams that send nothing for "
            f"{info.sequence_idle_ms / 1000:g} s (send silence to hold one) and when it restarts: "
            f"{details}"
        )
    return ServerFailed(f"{info.url} failed on a chunk: {code}: {details}")


def chunk_timeout(info: ServerInfo, *, starting: bool, deadline_s: float) -> ChunkTimeout:
    """The answer to a chunk has not come in time; `starting` if it was the first of its stream."""
    which = "the first chunk" if starting else "a chunk"
    return ChunkTimeout(f"{info.url} did not answer {which} within {deadline_s:g} s")


def piece_error(failure: RpcFailure, info: OfflineInfo, piece_s: float) -> EarshotError:
    """Why a piece of a recording got no answer."""
    code, details = _read(failure)
    if code == "DEADLINE_EXCEEDED":
        return ChunkTimeout(f"{info.url} did not answer a piece within {piece_s:g} s")
    if code == "UNAVAILABLE" and _NO_CONNECTION.search(details):
        return ConnectionFailed(f"no server at {info.url}: {details}")
    if code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        return ServerBusy(f"{info.url} takes no more pieces now: {details}")
    return ServerFailed(f"{info.url} failed on a piece: {code}: {details}")


def is_transient(failure: RpcFailure) -> bool:
    """Whether the same piece may do better in a moment."""
    return failure.code().name not in _FINAL


def _read(failure: RpcFailure) -> tuple[str, str]:
    return failure.code().name, failure.details() or "no details"
