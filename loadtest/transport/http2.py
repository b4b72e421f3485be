"""Implement HTTP/2 as far as unary gRPC calls need it (RFC 9113), without input or output.

The load generator shares its machine with the server, and gRPC's Python package takes more CPU time
per call than everything else in the generator; so does the package h2. A call needs only little:
two kinds of frames out, two in, and flow control. Two measures make them cheap:

- Header fields are sent as never-indexed literals, so a stream encodes them once.
- The peer is told that there is no dynamic table, so equal blocks of header fields mean the same,
  and each is decoded once.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import cache
from typing import TypeAlias
from urllib.parse import unquote

import hpack
from grpc import StatusCode

Headers: TypeAlias = "tuple[tuple[str, str], ...]"
HeaderBlock: TypeAlias = bytes

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME = struct.Struct(">IBI")
"""Header of a frame: length (24 bits) and kind (8), flags, stream."""
_FRAME_BYTES = _FRAME.size
_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")
_MESSAGE = struct.Struct(">BI")
"""Prefix of a gRPC message: compression flag, length."""
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_REFUSED, _CANCEL = 7, 8
_MOST_REFUSALS = 20
"""Largest number of times that a call is repeated because a peer has not processed it."""
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_CREDIT_BYTES = 2**30
"""Bytes received before the peer gets new credit for the connection."""
_LARGEST_CACHE = 1000
"""Number of header blocks to cache: the headers of answers differ little, but those of errors may
all differ."""


class _Kind(IntEnum):
    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
    PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9


class _Setting(IntEnum):
    HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
    INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5


# The mappings of gRPC (doc/http-grpc-status-mapping.md and PROTOCOL-HTTP2.md in its repository).
_STATUS_OF_HTTP = {
    "400": StatusCode.INTERNAL,
    "401": StatusCode.UNAUTHENTICATED,
    "403": StatusCode.PERMISSION_DENIED,
    "404": StatusCode.UNIMPLEMENTED,
    "429": StatusCode.UNAVAILABLE,
    "502": StatusCode.UNAVAILABLE,
    "503": StatusCode.UNAVAILABLE,
    "504": StatusCode.UNAVAILABLE,
}
_STATUS_OF_RESET = {
    _REFUSED: StatusCode.UNAVAILABLE,
    _CANCEL: StatusCode.CANCELLED,
    11: StatusCode.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    12: StatusCode.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}
_ENCODER = hpack.Encoder()
"""Encoder of never-indexed fields, which therefore has no state."""
_STATUS_OF_CODE = {str(status.value[0]): status for status in StatusCode}


class ProtocolError(Exception):
    """The peer violates the HTTP/2 protocol."""


class Reply:
    """The outcome of a call; a failure can be explained like a gRPC error."""

    __slots__ = ("_code", "_details", "headers", "message")

    def __init__(
        self, code: StatusCode, details: str = "", message: bytes = b"", headers: Headers = ()
    ) -> None:
        self._code = code
        self._details = details
        self.message = message
        """The answer, if the call succeeded."""
        self.headers = headers
        """Header fields that preceded the answer."""

    @property
    def succeeded(self) -> bool:
        """Return whether there is an answer."""
        return self._code is StatusCode.OK

    def code(self) -> StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str:
        """Return the message of the status."""
        return self._details


class UnaryCall:
    """One request, and the received part of its answer."""

    __slots__ = (
        *("_message", "_received", "_unsent", "block"),
        *("first_headers", "on_reply", "refusals", "window"),
    )

    def __init__(
        self, block: HeaderBlock, message: Sequence[bytes], on_reply: Callable[[Reply], None]
    ) -> None:
        """Prepare a call; `block` is from `request_block`, and parts of `message` are joined."""
        self.block = block
        self.on_reply = on_reply
        self.window = 0
        self.first_headers: Headers = ()
        self._received: list[bytes] = []
        prefix = _MESSAGE.pack(0, sum(map(len, message)))
        self._message = memoryview(b"".join((prefix, *message)))
        self._unsent = self._message
        self.refusals = 0

    def begin(self, window: int) -> None:
        """Begin to send the request, or begin again, to a peer that accepts `window` bytes."""
        self._unsent = self._message
        self.window = window

    @property
    def unsent(self) -> int:
        """Return the number of bytes of the request that still have to be sent."""
        return len(self._unsent)

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes to send."""
        part, self._unsent = self._unsent[:size], self._unsent[size:]
        return part

    def add(self, part: bytes) -> None:
        """Add a part of the answer."""
        self._received.append(part)

    def reply(self, trailers: Headers) -> Reply:
        """Return the outcome according to the trailers."""
        fields = dict(trailers)
        status = dict(self.first_headers or trailers).get(":status", "200")
        code = fields.get("grpc-status")
        if code is None:
            details = f"Received http2 header with status: {status}"
            return Reply(_STATUS_OF_HTTP.get(status, StatusCode.UNKNOWN), details)
        if code != "0":
            details = unquote(fields.get("grpc-message", ""))
            return Reply(_STATUS_OF_CODE.get(code, StatusCode.UNKNOWN), details)
        data = b"".join(self._received)
        if len(data) < _MESSAGE.size or _MESSAGE.unpack_from(data) != (0, len(data) - 5):
            return Reply(StatusCode.INTERNAL, f"expected one message, got {len(data)} bytes")
        return Reply(StatusCode.OK, "", data[_MESSAGE.size :], self.first_headers)


class Connection:
    """The client's end of one connection: it converts calls to bytes, and bytes to replies."""

    def __init__(self) -> None:
        settings = {
            _Setting.HEADER_TABLE_SIZE: 0,
            _Setting.ENABLE_PUSH: 0,
            _Setting.INITIAL_WINDOW_SIZE: _LARGEST_WINDOW,
        }
        packed = b"".join(_SETTING.pack(*setting) for setting in settings.items())
        self._out: list[bytes | memoryview] = [_PREFACE]
        self._frame(_Kind.SETTINGS, 0, 0, packed)
        self._give_credit(_LARGEST_WINDOW - _FIRST_WINDOW)
        self._in = b""
        self._calls: dict[int, UnaryCall] = {}
        self._waiting: deque[UnaryCall] = deque()
        """Calls for which the peer has no free stream, or that it has not processed."""
        self._blocked: dict[int, UnaryCall] = {}
        """Calls that are partly sent, because the peer accepts no more for now."""
        self._next_stream = 1
        self._most_streams = 2**31
        self._window = self._first_window = _FIRST_WINDOW
        self._largest_frame = 16_384
        self._uncredited = 0
        self._open_block: tuple[int, int, bytes] | None = None
        """Stream, flags and first part of an unfinished block of header fields."""
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0
        self._decoded: dict[HeaderBlock, Headers] = {}
        self._done: list[tuple[UnaryCall, Reply]] = []
        self._frame_handlers: dict[int, Callable[[int, int, bytes], None]] = {
            _Kind.DATA: self._on_data,
            _Kind.HEADERS: self._on_headers,
            _Kind.CONTINUATION: self._on_continuation,
            _Kind.RST_STREAM: self._on_reset,
            _Kind.SETTINGS: self._on_settings,
            _Kind.PING: self._on_ping,
            _Kind.GOAWAY: self._on_go_away,
            _Kind.WINDOW_UPDATE: self._on_window_update,
        }
        self.is_ready = False
        """True once the peer has sent its settings, so that calls may start."""
        self.takes_calls = True
        """True while the peer accepts calls on this connection."""
        self.is_paused = False
        """True after the peer has refused a call unseen; no call starts until `resume`."""

    @property
    def calls(self) -> int:
        """Return the number of calls in flight."""
        return len(self._calls) + len(self._waiting)

    def start(self, call: UnaryCall) -> None:
        """Start a call, at once or when the peer accepts it; see `take_bytes`."""
        if not self._has_room:
            self._waiting.append(call)
            return
        stream = self._next_stream
        self._next_stream += 2
        if self._next_stream >= 2**31:
            self.takes_calls = False
        self._calls[stream] = call
        call.begin(self._first_window)
        self._frame(_Kind.HEADERS, _END_HEADERS, stream, call.block)
        self._send(stream, call)

    def resume(self) -> None:
        """Start calls again, after a pause."""
        self.is_paused = False
        self._start_waiting()

    def take_orphans(self) -> list[UnaryCall]:
        """Return and remove the calls that need another connection because the peer goes away."""
        if self.takes_calls:
            return []
        orphans = list(self._waiting)
        self._waiting.clear()
        return orphans

    def take_bytes(self) -> bytes:
        """Return and remove the bytes to send."""
        taken = b"".join(self._out)
        self._out.clear()
        return taken

    def receive(self, data: bytes) -> list[tuple[UnaryCall, Reply]]:
        """Process bytes from the peer; return the calls that they end.

        Raises:
            ProtocolError: The peer violates the protocol, and the connection is no longer usable.
        """
        self._in = data = self._in + data if self._in else data
        position, end = 0, len(data)
        try:
            while end - position >= _FRAME_BYTES:
                length, flags, stream = _FRAME.unpack_from(data, position)
                length, kind = length >> 8, length & 0xFF
                payload = position + _FRAME_BYTES
                if end - payload < length:
                    break
                position = payload + length
                handle = self._frame_handlers.get(kind)
                if handle is not None:  # frames of other kinds are to be ignored
                    handle(flags, stream, data[payload:position])
        except (hpack.HPACKError, struct.error, IndexError) as error:
            raise ProtocolError(f"a frame cannot be read: {error!r}") from error
        self._in = data[position:]
        self._start_waiting()
        done, self._done = self._done, []
        return done

    def fail(self, code: StatusCode, details: str) -> list[tuple[UnaryCall, Reply]]:
        """End all calls; return them, and those that ended before a broken frame."""
        self.takes_calls = False
        done, self._done = self._done, []
        done += [(call, Reply(code, details)) for call in (*self._calls.values(), *self._waiting)]
        self._calls.clear()
        self._waiting.clear()
        self._blocked.clear()
        return done

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        self._out.append(_FRAME.pack(len(payload) << 8 | kind, flags, stream))
        self._out.append(payload)

    def _send(self, stream: int, call: UnaryCall) -> None:
        """Send as much of a request as the peer accepts."""
        while call.unsent:
            size = min(call.unsent, self._largest_frame, self._window, call.window)
            if size <= 0:
                self._blocked[stream] = call
                return
            self._window -= size
            call.window -= size
            part = call.take(size)
            self._frame(_Kind.DATA, 0 if call.unsent else _END_STREAM, stream, part)
        self._blocked.pop(stream, None)

    def _send_blocked(self) -> None:
        for stream, call in list(self._blocked.items()):
            if self._window <= 0:
                return
            self._send(stream, call)

    @property
    def _has_room(self) -> bool:
        return self.takes_calls and not self.is_paused and len(self._calls) < self._most_streams

    def _start_waiting(self) -> None:
        while self._waiting and self._has_room:
            self.start(self._waiting.popleft())

    def _give_credit(self, size: int) -> None:
        self._frame(_Kind.WINDOW_UPDATE, 0, 0, _U32.pack(size))

    def _end(self, stream: int, reply: Reply) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        if self._blocked.pop(stream, None):
            self._frame(_Kind.RST_STREAM, 0, stream, _U32.pack(_CANCEL))
        self._done.append((call, reply))

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._uncredited += len(payload)
        if self._uncredited >= _CREDIT_BYTES:
            self._give_credit(self._uncredited)
            self._uncredited = 0
        call = self._calls.get(stream)
        if call is None:
            return
        call.add(_without_padding(payload) if flags & _PADDED else payload)
        if flags & _END_STREAM:
            self._end(stream, call.reply(()))

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & _PADDED:
            payload = _without_padding(payload)
        if flags & _PRIORITY:
            payload = payload[5:]
        if flags & _END_HEADERS:
            self._on_block(flags, stream, payload)
        else:
            self._open_block = (stream, flags, payload)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._open_block is None or self._open_block[0] != stream:
            raise ProtocolError("a continuation of nothing")
        _, first_flags, begun = self._open_block
        self._open_block = (stream, first_flags, begun + payload)
        if flags & _END_HEADERS:
            self._on_block(first_flags, stream, begun + payload)
            self._open_block = None

    def _on_block(self, flags: int, stream: int, block: HeaderBlock) -> None:
        headers = self._decoded.get(block)
        if headers is None:
            headers = tuple((str(name), str(value)) for name, value in self._decoder.decode(block))
            if len(self._decoded) < _LARGEST_CACHE:
                self._decoded[block] = headers
        call = self._calls.get(stream)
        if call is None:
            return
        if flags & _END_STREAM:
            self._end(stream, call.reply(headers))
        else:
            call.first_headers = headers

    def _on_reset(self, flags: int, stream: int, payload: bytes) -> None:
        (error,) = _U32.unpack(payload)
        code = _STATUS_OF_RESET.get(error, StatusCode.INTERNAL)
        reply = Reply(code, f"Received RST_STREAM with error code {error}")
        if error == _REFUSED and self._keep(stream):
            # A server may count a call as open for longer than we do, and refuse another one until
            # then.
            self.is_paused = True
        else:
            self._end(stream, reply)

    def _keep(self, stream: int) -> bool:
        """Keep a call in order to repeat it; return whether one was kept."""
        call = self._calls.get(stream)
        if call is None or call.refusals >= _MOST_REFUSALS:
            return False
        call.refusals += 1
        del self._calls[stream]
        self._blocked.pop(stream, None)
        self._waiting.append(call)
        return True

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & _ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            if name == _Setting.MAX_CONCURRENT_STREAMS:
                self._most_streams = value
            elif name == _Setting.MAX_FRAME_SIZE:
                self._largest_frame = value
            elif name == _Setting.INITIAL_WINDOW_SIZE:
                for call in self._calls.values():
                    call.window += value - self._first_window
                self._first_window = value
        self.is_ready = True
        self._frame(_Kind.SETTINGS, _ACK, 0, b"")
        self._send_blocked()

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if not flags & _ACK:
            self._frame(_Kind.PING, _ACK, 0, payload)

    def _on_go_away(self, flags: int, stream: int, payload: bytes) -> None:
        """Accept no more calls; those that the peer has not processed need another connection."""
        last, error = struct.unpack_from(">II", payload)
        self.takes_calls = False
        details = f"Received GOAWAY with error code {error}: {payload[8:].decode(errors='replace')}"
        for unseen in [stream for stream in self._calls if stream > last]:
            if not self._keep(unseen):
                self._end(unseen, Reply(StatusCode.UNAVAILABLE, details))

    def _on_window_update(self, flags: int, stream: int, payload: bytes) -> None:
        (size,) = _U32.unpack(payload)
        if not stream:
            self._window += size
            self._send_blocked()
        elif call := self._calls.get(stream):
            call.window += size
            if stream in self._blocked:
                self._send(stream, call)


def request_block(
    authority: str, scheme: str, path: str, headers: Iterable[tuple[str, str]]
) -> HeaderBlock:
    """Return the header fields of a call, which any connection may send any number of times."""
    return _fixed_block(authority, scheme, path) + _encode(headers)


@cache
def _fixed_block(authority: str, scheme: str, path: str) -> HeaderBlock:
    """Return the header fields that all calls of a method share."""
    return _encode(
        [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
    )


def _encode(headers: Iterable[tuple[str, str]]) -> HeaderBlock:
    # A Huffman code would save a few bytes, but cost more time than they do.
    fields = [hpack.NeverIndexedHeaderTuple(*header) for header in headers]
    return _ENCODER.encode(fields, huffman=False)


def _without_padding(payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]]
