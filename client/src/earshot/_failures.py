"""Translate gRPC status codes to the exceptions of this package."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Protocol

from ._errors import (
    AccessDenied,
    ChunkTimeout,
    ConnectionFailed,
    EarshotError,
    MessageTooLarge,
    ServerBusy,
    ServerDraining,
    ServerFailed,
    StreamLost,
    UnsupportedServer,
)
from ._server_info import OfflineInfo, ServerInfo

# gRPC reports a failed connection and a refusal by the server with the same code, UNAVAILABLE; only
# the message differs.
_NO_CONNECTION = re.compile(
    r"failed to connect|errors resolving|name resolution|socket closed|connection (reset|refused)"
    r"|recvmsg|broken pipe|goaway|ping timeout|keepalive|endpoint closing|handshake|delayed close"
    # From a proxy that has no server behind it.
    r"|http2 header with status: 50[23]|no healthy upstream|upstream connect error",
    re.IGNORECASE,
)
# An established connection has ended; a request may or may not have arrived.
_BROKEN = re.compile(
    r"socket closed|connection reset|recvmsg|broken pipe|ping timeout|keepalive|delayed close",
    re.IGNORECASE,
)
# The messages of Triton and of the bundled backend for a sequence that was dropped.
_UNKNOWN_STREAM = re.compile(r"START flag|is not open")
# The message of Triton for a START, or a whole file, after it has been asked to stop.
_DRAINING = re.compile(r"server is stopping|server exiting", re.IGNORECASE)

# Triton's message while it stops: open streams go on, everything new is refused.
_STOPPING = re.compile(r"server is stopping|stopped accepting", re.IGNORECASE)
# The messages of gRPC for a message beyond its limit, and for a proxy's "413 Content Too Large".
_TOO_LARGE = re.compile(r"larger than max \((?P<size>\d+) vs\. (?P<limit>\d+)\)")
_STATUS_413 = re.compile(r"http2 header with status: 413")

# Triton's message for a protocol that needs a secret.
_RESTRICTED = re.compile(
    r"protocol is restricted, expecting header '(?:.*-)?(?P<header>token|admin-key)'"
)

# Codes for which another attempt is pointless.
_FINAL = {
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNIMPLEMENTED",
}

# Codes of a chunk whose server is gone, is failing, or has lost the stream.
_LOST = {"CANCELLED", "INTERNAL", "NOT_FOUND", "UNAVAILABLE", "UNKNOWN"}


class StatusCode(Protocol):
    """The part of grpc.StatusCode that is used here."""

    @property
    def name(self) -> str: ...


class RpcFailure(Protocol):
    """The interface that the errors of grpc and of grpc.aio share."""

    def code(self) -> StatusCode: ...

    def details(self) -> str | None: ...


def access_error(failure: RpcFailure, url: str) -> AccessDenied | None:
    """Return the exception for a refusal because of a missing or wrong secret, else None."""
    code, details = _read(failure)
    restricted = _RESTRICTED.search(details)
    if restricted and restricted["header"] == "admin-key":
        return AccessDenied(
            f"{url} asks for the operators' key, and got none or a wrong one: pass it with "
            "--admin-key or EARSHOT_ADMIN_KEY"
        )
    if restricted:
        return AccessDenied(
            f"{url} asks for a token, and got none or a wrong one: pass `token` (--token, "
            "EARSHOT_TOKEN)"
        )
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return AccessDenied(f"{url} refuses this client: {details}")
    return None


def connect_error(failure: RpcFailure, url: str, connect_s: float) -> EarshotError:
    """Return the exception for a call of `connect` that failed."""
    code, details = _read(failure)
    if denied := access_error(failure, url):
        return denied
    if code == "UNAVAILABLE":
        return ConnectionFailed(f"no server at {url}: {details}")
    if code == "DEADLINE_EXCEEDED":
        return ConnectionFailed(f"{url} did not answer within {connect_s:g} s")
    return UnsupportedServer(f"{url} does not answer like Triton: {code}: {details}")


def chunk_error(
    failure: RpcFailure, info: ServerInfo, *, starting: bool, deadline_s: float, size: int = 0
) -> EarshotError:
    """Return the exception for a chunk of `size` bytes that failed.

    `starting` marks the first of its stream.
    """
    code, details = _read(failure)
    if denied := access_error(failure, info.url):
        return denied
    if too_large := _too_large(failure, info.url, size):
        return too_large
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
            f"{info.sequence_idle_ms / 1000:g} s (unless `keep_alive` keeps them), and when it "
            f"restarts: {details}"
        )
    return ServerFailed(f"{info.url} failed on a chunk: {code}: {details}")


def chunk_timeout(info: ServerInfo, *, starting: bool, deadline_s: float) -> ChunkTimeout:
    """Return the exception for a late answer; `starting` marks the first chunk of a stream."""
    which = "the first chunk" if starting else "a chunk"
    return ChunkTimeout(f"{info.url} did not answer {which} within {deadline_s:g} s")


def piece_error(failure: RpcFailure, info: OfflineInfo, piece_s: float, size: int) -> EarshotError:
    """Return the exception for a piece of a recording, of `size` bytes, that failed."""
    code, details = _read(failure)
    if denied := access_error(failure, info.url):
        return denied
    if too_large := _too_large(failure, info.url, size):
        return too_large
    if code == "DEADLINE_EXCEEDED":
        return ChunkTimeout(f"{info.url} did not answer a piece within {piece_s:g} s")
    if code == "UNAVAILABLE" and _NO_CONNECTION.search(details):
        return ConnectionFailed(f"no server at {info.url}: {details}")
    if code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        if _DRAINING.search(details):
            return ServerDraining(f"{info.url} is about to stop and takes no new files: {details}")
        return ServerBusy(f"{info.url} accepts no more pieces now: {details}")
    return ServerFailed(f"{info.url} failed on a piece: {code}: {details}")


class Remedy(Enum):
    """The next step that may help after the failure of a piece."""

    NONE = auto()
    TRY_AGAIN = auto()
    LOOK_AGAIN = auto()
    """The model is gone; another generation may have replaced it."""
    WAIT = auto()
    """The server cannot be reached, or is stopping."""


def remedy(failure: RpcFailure) -> Remedy:
    """Return the next step that may help after a failure."""
    code, details = _read(failure)
    if code == "UNAVAILABLE" and (_NO_CONNECTION.search(details) or _STOPPING.search(details)):
        return Remedy.WAIT
    if is_unknown_model(failure):
        return Remedy.LOOK_AGAIN
    for final in (_RESTRICTED, _TOO_LARGE, _STATUS_413):
        if final.search(details):
            return Remedy.NONE
    return Remedy.NONE if code in _FINAL else Remedy.TRY_AGAIN


def is_lost(failure: RpcFailure) -> bool:
    """Return whether a stream that has begun may continue, on another or on the same server.

    A request that every server would refuse is not repeated.
    """
    code, details = _read(failure)
    if any(final.search(details) for final in (_RESTRICTED, _TOO_LARGE, _STATUS_413)):
        return False
    return code in _LOST or _UNKNOWN_STREAM.search(details) is not None


def is_draining(failure: RpcFailure) -> bool:
    """Return whether the server has been asked to stop; even a readiness request then fails so."""
    return _DRAINING.search(_read(failure)[1]) is not None


def is_forgotten(failure: RpcFailure) -> bool:
    """Return whether the server is up, but no longer knows the stream or its model."""
    return is_unknown_model(failure) or _UNKNOWN_STREAM.search(_read(failure)[1]) is not None


def is_broken_connection(failure: RpcFailure) -> bool:
    """Return whether the connection broke during the call; gRPC then opens another one."""
    code, details = _read(failure)
    return code == "UNAVAILABLE" and _BROKEN.search(details) is not None


def is_unknown_model(failure: RpcFailure) -> bool:
    """Return whether the server does not serve the model, for example because it was unloaded."""
    return failure.code().name == "NOT_FOUND"


def _too_large(failure: RpcFailure, url: str, size: int) -> MessageTooLarge | None:
    """Return the exception for a request of `size` bytes if it was refused for its size."""
    details = _read(failure)[1]
    limit = _TOO_LARGE.search(details)
    if limit:
        return MessageTooLarge(
            f"{url} takes messages of at most {limit['limit']} bytes, and this one has "
            f"{limit['size']}: raise the limit of the server, or of the proxy before it"
        )
    if _STATUS_413.search(details):
        return MessageTooLarge(
            f"a proxy before {url} refuses a message of {size} bytes (HTTP 413): raise its limit "
            f"above that (nginx: client_max_body_size)"
        )
    return None


def _read(failure: RpcFailure) -> tuple[str, str]:
    return failure.code().name, failure.details() or "no details"
