"""Translate gRPC status codes to the exceptions of this package."""

from __future__ import annotations

import re
from typing import Protocol

from ._errors import (
    ChunkTimeout,
    ConnectionFailed,
    EarshotError,
    ServerBusy,
    ServerDraining,
    ServerFailed,
    StreamLost,
    UnsupportedServer,
)
from ._server_info import OfflineInfo, ServerInfo

# gRPC reports connection failures and the refusal of a server with the same code, UNAVAILABLE; only
# the message differs.
_NO_CONNECTION = re.compile(
    r"failed to connect|errors resolving|name resolution|socket closed|connection (reset|refused)"
    r"|recvmsg|broken pipe|goaway|ping timeout|endpoint closing|handshake",
    re.IGNORECASE,
)
# The messages of Triton and of the bundled backend for a sequence that was dropped.
_UNKNOWN_STREAM = re.compile(r"START flag|is not open")
# The message of Triton for a START, or a whole file, after it has been asked to stop.
_DRAINING = re.compile(r"server is stopping|server exiting", re.IGNORECASE)

# Codes that another attempt does not change.
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
    """The part of grpc.StatusCode that is used here."""

    @property
    def name(self) -> str: ...


class RpcFailure(Protocol):
    """The part that the errors of grpc and of grpc.aio have in common."""

    def code(self) -> StatusCode: ...

    def details(self) -> str | None: ...


def connect_error(failure: RpcFailure, url: str, connect_s: float) -> EarshotError:
    """Return the exception for a call of `connect` that failed."""
    code, details = _read(failure)
    if code == "UNAVAILABLE":
        return ConnectionFailed(f"no server at {url}: {details}")
    if code == "DEADLINE_EXCEEDED":
        return ConnectionFailed(f"{url} did not answer within {connect_s:g} s")
    return UnsupportedServer(f"{url} does not answer like Triton: {code}: {details}")


def chunk_error(
    failure: RpcFailure, info: ServerInfo, *, starting: bool, deadline_s: float
) -> EarshotError:
    """Return the exception for a chunk that failed; `starting` marks the first of its stream."""
    code, details = _read(failure)
    if code == "DEADLINE_EXCEEDED":
        return chunk_timeout(info, starting=starting, deadline_s=deadline_s)
    if code == "NOT_FOUND":
        return StreamLost(f"{info.url} no longer serves {info.ensemble}: {details}")
    if code == "RESOURCE_EXHAUSTED" or (code == "UNAVAILABLE" and starting):
        if _NO_CONNECTION.search(details):
            return ConnectionFailed(f"no server at {info.url}: {details}")
        if _DRAINING.search(details):
            return ServerDraining(
                f"{info.url} is about to stop and takes no new streams: {details}"
            )
        return ServerBusy(f"{info.url} has no free slot for the stream: {details}")
    if code in ("UNAVAILABLE", "CANCELLED"):
        return StreamLost(f"{info.url} stopped answering, and the stream is lost: {details}")
    if not starting and _UNKNOWN_STREAM.search(details):
        return StreamLost(
            f"{info.url} no longer knows the stream. It drops streams that send nothing for "
            f"{info.sequence_idle_ms / 1000:g} s (send silence to keep one), and when it restarts: "
            f"{details}"
        )
    return ServerFailed(f"{info.url} failed on a chunk: {code}: {details}")


def chunk_timeout(info: ServerInfo, *, starting: bool, deadline_s: float) -> ChunkTimeout:
    """Return the exception for a late answer; `starting` marks the first chunk of a stream."""
    which = "the first chunk" if starting else "a chunk"
    return ChunkTimeout(f"{info.url} did not answer {which} within {deadline_s:g} s")


def piece_error(failure: RpcFailure, info: OfflineInfo, piece_s: float) -> EarshotError:
    """Return the exception for a piece of a recording that failed."""
    code, details = _read(failure)
    if code == "DEADLINE_EXCEEDED":
        return ChunkTimeout(f"{info.url} did not answer a piece within {piece_s:g} s")
    if code == "UNAVAILABLE" and _NO_CONNECTION.search(details):
        return ConnectionFailed(f"no server at {info.url}: {details}")
    if code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        if _DRAINING.search(details):
            return ServerDraining(f"{info.url} is about to stop and takes no new files: {details}")
        return ServerBusy(f"{info.url} accepts no more pieces now: {details}")
    return ServerFailed(f"{info.url} failed on a piece: {code}: {details}")


def is_transient(failure: RpcFailure) -> bool:
    """Tell whether the same request may succeed in a moment."""
    return failure.code().name not in _FINAL


def _read(failure: RpcFailure) -> tuple[str, str]:
    return failure.code().name, failure.details() or "no details"
