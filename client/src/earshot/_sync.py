"""The blocking client.

It runs under gevent too, after `monkey.patch_all()` and `grpc.experimental.gevent.init_gevent()`.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from concurrent import futures
from os import PathLike
from types import TracebackType
from typing import Any

import grpc

from ._failures import connect_error
from ._files import open_audio
from ._grpc import (
    CONFIG_REQUEST,
    METADATA_REQUEST,
    READY_REQUEST,
    Address,
    describe,
    make_stub,
    read_address,
)
from ._pcm import Pcm
from ._server_info import ServerInfo
from ._session import Call, Session
from ._timeouts import Timeouts
from ._transcript import ChunkResult, Transcript


def connect(
    url: str,
    *,
    tls: bool = False,
    root_certificates: bytes | None = None,
    timeouts: Timeouts | None = None,
) -> Client:
    """Connects and asks the server what it serves.

    `url` is `host`, `host:port`, `grpc://host:port` or `grpcs://host:port`; the port is 8001
    unless given. `tls` (or grpcs) encrypts; `root_certificates`, in PEM, replaces the system's.
    Raises ConnectionFailed or UnsupportedServer.
    """
    timeouts = timeouts or Timeouts()
    address = read_address(url, tls, root_certificates)
    channel = _open_channel(address)
    stub = make_stub(channel)
    try:
        metadata = stub.ServerMetadata.future(METADATA_REQUEST, timeout=timeouts.connect_s)
        config = stub.ModelConfig.future(CONFIG_REQUEST, timeout=timeouts.connect_s)
        info = describe(address, metadata.result(), config.result())
    except BaseException as error:
        channel.close()
        if isinstance(error, grpc.RpcError):
            raise connect_error(error, address.target, timeouts.connect_s) from error
        raise
    return Client(info, _Line(channel, stub, timeouts))


def _open_channel(address: Address) -> Any:
    if address.tls:
        return grpc.secure_channel(address.target, address.credentials(), address.options())
    return grpc.insecure_channel(address.target, address.options())


class Client:
    """A connection to one server; make one with `connect`. Threads may share it.

    Leaving its `with` block ends all that is still open.
    """

    info: ServerInfo

    def __init__(self, info: ServerInfo, line: _Line) -> None:
        self.info = info
        self._line = line

    def stream(self, *, sample_rate_hz: float, channels: int = 1) -> Stream:
        """A live stream for audio of this rate and number of interleaved channels."""
        session = Session(self.info, self._line.timeouts, sample_rate_hz, channels)
        return Stream(session, self._line)

    def stream_from(
        self, pieces: Iterable[Pcm], *, sample_rate_hz: float, channels: int = 1
    ) -> Generator[ChunkResult, None, None]:
        """A stream of its own for `pieces`; see `Stream.send_all`."""
        with self.stream(sample_rate_hz=sample_rate_hz, channels=channels) as stream:
            yield from stream.send_all(pieces)

    def transcribe(self, path: str | PathLike[str]) -> Transcript:
        """Streams an audio file (wav, flac, ogg, mp3, ...) as fast as the server answers.

        Memory does not grow with the length of the audio, but for the transcript. Raises
        InvalidAudio for a file that is unreadable or empty, and whatever a stream raises.
        """
        with (
            open_audio(path) as audio,
            self.stream(sample_rate_hz=audio.sample_rate_hz, channels=audio.channels) as stream,
        ):
            for block in audio.blocks():
                stream.send(block)
            return stream.finish()

    def is_ready(self) -> bool:
        """Whether the server takes streams now; raises ConnectionFailed if it does not answer."""
        connect_s = self._line.timeouts.connect_s
        try:
            return self._line.stub.ModelReady(READY_REQUEST, timeout=connect_s).ready
        except grpc.RpcError as error:
            raise connect_error(error, self.info.url, connect_s) from error

    def close(self) -> None:
        """Ends open streams, waits `Timeouts.close_s` for the server to hear of it, disconnects."""
        self._line.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Stream:
    """One live stream; make one with `Client.stream`. One thread at a time may use it.

    A stream that is not finished is ended on the server's side in any case: on leaving its `with`
    block, on an error, and when it is garbage collected.
    """

    def __init__(self, session: Session, line: _Line) -> None:
        self._session = session
        self._line = line
        self._in_flight: Any = None
        self._abandon = weakref.finalize(self, line.abandon_garbage, session)
        line.streams.add(self)

    def send(self, piece: Pcm) -> list[ChunkResult]:
        """Takes a piece of audio of any length; returns what the chunks that it filled added.

        Chunks go out one by one, each after the answer to the one before: `send` returns at once
        while no chunk is full, else when the last full one is answered. Raises InvalidAudio (the
        stream goes on without the piece) or a StreamError (it has ended).
        """
        return [self._exchange(call) for call in self._session.push(piece)]

    def send_all(self, pieces: Iterable[Pcm]) -> Generator[ChunkResult, None, None]:
        """Sends `pieces` and ends the stream; yields what each chunk added when it is known.

        Leaving the iteration half way gives the stream up.
        """
        try:
            for piece in pieces:
                for call in self._session.push(piece):
                    yield self._exchange(call)
            yield from self.end()
        finally:
            self.close()

    def end(self) -> list[ChunkResult]:
        """Sends what is left as the last chunk; returns what it added."""
        return [self._exchange(call) for call in self._session.end()]

    def finish(self) -> Transcript:
        """Ends the stream if `end` has not yet; returns the whole transcript."""
        if not self._session.finished:
            self.end()
        return self.transcript

    @property
    def transcript(self) -> Transcript:
        """All that has been recognized so far."""
        return self._session.transcript

    def close(self) -> None:
        """Gives the stream up: what it has not sent is dropped. Does not wait for the server."""
        self._abandon.detach()
        self._line.abandon(self._session, self._in_flight)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.add_transcript(error)
        self.close()

    def _exchange(self, call: Call) -> ChunkResult:
        session = self._session
        sent_s = time.monotonic()
        try:
            self._in_flight = self._line.infer(call.request, call.wire_s, session)
            reply = self._in_flight.result(timeout=call.deadline_s)
            return session.receive(call, reply, sent_s, time.monotonic())
        except BaseException as error:
            self.close()
            if isinstance(error, grpc.FutureTimeoutError):
                raise session.time_out(call) from error
            if isinstance(error, grpc.RpcError):
                raise session.explain(call, error) from error
            raise


class _Line:
    """The channel and what is under way on it; outlives the client while a stream needs it."""

    def __init__(self, channel: Any, stub: Any, timeouts: Timeouts) -> None:
        self.stub = stub
        self.timeouts = timeouts
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._channel = channel
        self._infer = stub.ModelInfer.future
        self._ends: set[futures.Future[None]] = set()
        self._this_thread = threading.local()
        self._garbage: deque[Session] = deque()

    def infer(self, request: Any, wire_s: float, session: Session) -> Any:
        """Sends one request; the answer comes as a grpc.Future."""
        self._this_thread.in_grpc = True
        try:
            return self._infer(request, timeout=wire_s, metadata=session.metadata)
        finally:
            self._this_thread.in_grpc = False
            with contextlib.suppress(IndexError):
                while True:
                    self.abandon(self._garbage.popleft(), None)

    def abandon(self, session: Session, in_flight: Any | None) -> None:
        """Sends END after the answer to what is in flight, without waiting; must never raise."""
        with contextlib.suppress(Exception):
            request = session.abandon()
            if request is None:
                return
            ended: futures.Future[None] = futures.Future()
            self._ends.add(ended)
            ended.add_done_callback(self._ends.discard)

            def end(_: Any) -> None:
                try:
                    call = self.infer(request, session.idle_s, session)
                    # How an END fails is of no use to anyone.
                    call.add_done_callback(lambda _: ended.set_result(None))
                except Exception:  # the channel is closed
                    ended.set_result(None)

            if in_flight is None:
                end(None)
            else:
                in_flight.add_done_callback(end)

    def abandon_garbage(self, session: Session) -> None:
        """The same from a finalizer; that may interrupt gRPC where it holds a lock of its own."""
        if getattr(self._this_thread, "in_grpc", False):
            self._garbage.append(session)
        else:
            self.abandon(session, None)

    def close(self) -> None:
        for stream in tuple(self.streams):
            stream.close()
        futures.wait(tuple(self._ends), timeout=self.timeouts.close_s)
        self._channel.close()
