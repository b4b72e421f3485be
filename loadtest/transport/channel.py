"""Make unary gRPC calls over one gevent connection, which is reopened when it is lost.

Everything runs in callbacks of gevent's hub: an answer switches to the greenlet that waits for it,
and there are no other switches. Proxies of `http_proxy` are not used.
"""

from __future__ import annotations

import math
import socket as sockets
import ssl
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.hub import Waiter, get_hub
from gevent.lock import Semaphore
from grpc import StatusCode

from loadtest.transport.http2 import (
    Connection,
    HeaderBlock,
    Headers,
    ProtocolError,
    Reply,
    UnaryCall,
    request_block,
)

_READ_BYTES = 2**18
_RETRY_S = 1.0
"""Calls within this time after a failed attempt to connect fail with the same error."""
_PAUSE_S = 0.1
"""Time after which a call is repeated that a server refused unseen for lack of room."""
_READ, _WRITE = 1, 2
"""Events of libev."""
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Channel:
    """Unary calls to one server, for the greenlets of one thread."""

    def __init__(
        self,
        target: str,
        headers: Headers = (),
        *,
        connect_s: float,
        silence_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connect to `target` (host:port) with the first call.

        Args:
            target: Address of the server.
            headers: Headers of every call.
            connect_s: Time limit for connecting.
            silence_s: Time after which a peer that acknowledges nothing is considered gone.
            tls: Context for encryption; `None` for none.
        """
        self._target = target
        self._headers = headers
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._tls = tls
        self._connecting = Semaphore()
        self._link: _Link | None = None
        self._failed_at_s = -_RETRY_S
        self._failure = Reply(StatusCode.UNAVAILABLE)

    def block(self, path: str, headers: Headers) -> HeaderBlock:
        """Return the header fields of a call of the method `path`."""
        scheme = "https" if self._tls else "http"
        return request_block(self._target, scheme, path, (*self._headers, *headers))

    def start(self, block: HeaderBlock, *message: bytes) -> PendingReply:
        """Send a message, given in parts; wait only for the connection."""
        pending = PendingReply()
        link = self._link
        if link is None or not link.takes_calls:
            link = self._connected()
        if link is None:
            pending.set(self._failure)
        else:
            link.start(UnaryCall(block, message, pending.set))
        return pending

    def close(self) -> None:
        """Close the connection; calls in flight and later ones fail."""
        self._failure = Reply(StatusCode.UNAVAILABLE, "the channel is closed")
        self._failed_at_s = math.inf
        if self._link is not None:
            self._link.close_soon(self._failure.details())
            gevent.sleep(0)

    def _move(self, calls: list[UnaryCall]) -> None:
        """Restart calls on another connection that a server that goes away has not processed."""
        link = self._connected()
        for call in calls:
            if link is None:
                get_hub().loop.run_callback(call.on_reply, self._failure)
            else:
                link.start(call)

    def _connected(self) -> _Link | None:
        """Return a connection that accepts calls, or `None` if there is no server."""
        with self._connecting:
            if self._link is not None and self._link.takes_calls:
                return self._link
            if time.monotonic() - self._failed_at_s < _RETRY_S:
                return None
            try:
                with gevent.Timeout(self._connect_s):
                    link = _Link(self._open(), self._move)
                    link.wait_until_ready()
            except (OSError, gevent.Timeout) as error:
                late = isinstance(error, gevent.Timeout)
                why = f"no answer within {self._connect_s:g} s" if late else error
                details = f"failed to connect to {self._target}: {why}"
                self._failure = Reply(StatusCode.UNAVAILABLE, details)
                self._failed_at_s = time.monotonic()
                return None
            self._link = link
            return link

    def _open(self) -> Any:
        host, _, port = self._target.rpartition(":")
        opened: Any = socket.create_connection((host.strip("[]"), int(port)))
        opened.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        silence_ms = round(1000 * self._silence_s)
        opened.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, silence_ms)
        if self._tls is not None:
            opened = self._tls.wrap_socket(opened, server_hostname=host.strip("[]"))
            if opened.selected_alpn_protocol() != "h2":
                raise OSError("handshake: the server does not speak HTTP/2")
        opened.setblocking(False)
        return opened


class PendingReply:
    """The reply to a call, for one greenlet at a time to wait for."""

    __slots__ = ("_reply", "_waiter")

    def __init__(self) -> None:
        self._reply: Reply | None = None
        self._waiter: Any = None

    def wait(self) -> Reply:
        """Wait for the reply and return it."""
        if self._reply is None:
            self._waiter = Waiter()
            try:
                self._waiter.get()
            finally:
                self._waiter = None
        assert self._reply is not None
        return self._reply

    def set(self, reply: Reply) -> None:
        """Set the reply, and switch to the greenlet that waits for it."""
        self._reply = reply
        if self._waiter is not None:
            self._waiter.switch(None)


class _Link:
    """One connection: a socket and the hub's watchers for it."""

    def __init__(self, opened: Any, move: Callable[[list[UnaryCall]], None]) -> None:
        """Use an open socket; `move` restarts calls on another connection, in its own greenlet."""
        self._socket = opened
        self._move = move
        self._connection = Connection()
        self._unsent = b""
        self._ready = Event()
        self._closed = False
        self._why = ""
        # With TLS, decrypted bytes may be waiting, of which the watcher does not know.
        self._pending: Callable[[], int] = getattr(opened, "pending", lambda: 0)
        self._loop: Any = get_hub().loop
        self._readable = self._loop.io(opened.fileno(), _READ)
        self._writable = self._loop.io(opened.fileno(), _WRITE)
        self._pause = self._loop.timer(0.0, _PAUSE_S)
        self._readable.start(self._read)
        self._send()

    @property
    def takes_calls(self) -> bool:
        """Return whether new calls may start here."""
        return self._connection.takes_calls

    def wait_until_ready(self) -> None:
        """Wait for the peer's settings; raise OSError if it ends the connection."""
        try:
            self._ready.wait()
        finally:
            if not self._connection.is_ready:
                self.close_soon("the server did not answer")
        if self._closed:
            raise OSError(self._why)

    def start(self, call: UnaryCall) -> None:
        """Start a call."""
        self._connection.start(call)
        if not self._unsent:
            self._send()

    def close_soon(self, why: str) -> None:
        """Close the connection from the hub: only the hub may switch to waiting greenlets."""
        self._connection.takes_calls = False
        self._loop.run_callback(self._close, why)

    def _close(self, why: str) -> None:
        """Close the connection; calls in flight fail."""
        if self._closed:
            return
        self._closed, self._why = True, why
        self._ready.set()
        for watcher in (self._readable, self._writable, self._pause):
            watcher.stop()
            watcher.close()
        self._socket.close()
        _deliver(self._connection.fail(StatusCode.UNAVAILABLE, why))

    def _read(self) -> None:
        done: list[tuple[UnaryCall, Reply]] = []
        try:
            while True:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("Socket closed")
                done += self._connection.receive(data)
                if not self._pending():
                    break
        except _NOT_NOW:
            pass
        except (OSError, ProtocolError) as error:
            _deliver(done)
            self._close(f"{error}")
            return
        if self._connection.is_ready:
            self._ready.set()
        if self._connection.is_paused and not self._pause.active:
            self._pause.again(self._resume)
        if orphans := self._connection.take_orphans():
            gevent.spawn(self._move, orphans)
        if not self._unsent:
            self._send()
        _deliver(done)

    def _resume(self) -> None:
        self._pause.stop()
        self._connection.resume()
        if not self._unsent:
            self._send()

    def _send(self) -> None:
        """Send as much as the socket accepts; the rest follows when it accepts more."""
        while out := self._unsent or self._connection.take_bytes():
            try:
                self._unsent = out[self._socket.send(out) :]
            except _NOT_NOW:
                self._unsent = out
            except OSError as error:
                self.close_soon(f"{error}")
                return
            if self._unsent:
                self._writable.start(self._send)
                return
        self._writable.stop()


def _deliver(done: list[tuple[UnaryCall, Reply]]) -> None:
    for call, reply in done:
        call.on_reply(reply)
