"""The asyncio client, with the names and rules of the blocking one."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from ._errors import EarshotError, StreamClosed
from ._failures import connect_error, is_broken_connection
from ._format import AudioFormat, Encoding
from ._grpc import Address, Credentials, make_stub, read_address
from ._handshake import (
    Handshake,
    Question,
    Served,
    handshake,
    ready_request,
    require_offline,
    require_streaming,
)
from ._keep_alive import AsyncKeepAlive
from ._pcm import Pcm
from ._process import HomeProcess
from ._recognition import PIECES_AT_ONCE, RECOGNIZE_DEPRECATED, Recognition
from ._recognize_aio import recognize_pieces
from ._server_info import OfflineInfo, ServerInfo
from ._session import CLIENT_CLOSED, Call, Session
from ._source import Audio, AudioSource, Progress, ignore_progress, open_source, with_remarks
from ._stream_options import NO_OPTIONS, StreamOptions
from ._timeouts import Timeouts
from ._transcript import ChunkResult, Transcript

_aio: Any = grpc.aio


@asynccontextmanager
async def connect_async(
    url: str,
    *,
    model: str | None = None,
    tls: bool = False,
    root_certificates: bytes | None = None,
    certificate: bytes | None = None,
    key: bytes | None = None,
    token: str | None = None,
    timeouts: Timeouts | None = None,
) -> AsyncGenerator[AsyncClient, None]:
    """Connect for the length of an `async with` block; arguments and errors as for `connect`."""
    timeouts = timeouts or Timeouts()
    credentials = Credentials(tls, root_certificates, certificate, key, token)
    address = read_address(url, credentials)
    async with _open_channel(address, timeouts) as channel:
        connection = _Connection(make_stub(channel, credentials), timeouts)
        served = await connection.ask(handshake(address.target, model, timeouts.connect_s))
        try:
            yield AsyncClient(served, connection, address.target, model)
        finally:
            await connection.close()


def _open_channel(address: Address, timeouts: Timeouts) -> Any:
    options = address.options(timeouts.keepalive_s)
    if address.tls:
        return _aio.secure_channel(address.target, address.channel_credentials(), options)
    return _aio.insecure_channel(address.target, options)


class AsyncClient:
    """A connection to one server; `connect_async` makes it."""

    served: Served
    """The recognizers as of the connection, or of the last `refresh`."""

    def __init__(
        self, served: Served, connection: _Connection, target: str, model: str | None
    ) -> None:
        self.served = served
        self._connection = connection
        self._target = target
        self._model = model

    @property
    def info(self) -> ServerInfo:
        """Return the streaming recognizer; raise UnsupportedServer if the server has none."""
        return require_streaming(self.served)

    @property
    def offline(self) -> OfflineInfo | None:
        """Return the offline recognizer, or None if the server has none."""
        return self.served.offline

    async def refresh(self) -> None:
        """Read the recognizers again; see `Client.refresh`."""
        connect_s = self._connection.timeouts.connect_s
        self.served = await self._connection.ask(handshake(self._target, self._model, connect_s))

    def stream(
        self,
        *,
        sample_rate_hz: float,
        channels: int = 1,
        encoding: Encoding = "linear16",
        channel: int | None = None,
        options: StreamOptions = NO_OPTIONS,
    ) -> AsyncStream:
        """Open a live stream; arguments as for `Client.stream`."""
        self._connection.check_open()
        form = AudioFormat(sample_rate_hz, channels, encoding, channel)
        session = Session(self.info, self._connection.timeouts, form, options)
        return AsyncStream(session, self._connection, self._look_again)

    async def stream_from(
        self,
        pieces: AsyncIterable[Pcm] | Iterable[Pcm],
        *,
        sample_rate_hz: float,
        channels: int = 1,
        options: StreamOptions = NO_OPTIONS,
    ) -> AsyncGenerator[ChunkResult, None]:
        """Stream `pieces`; yield the result of each chunk. See `Stream.send_all`."""
        async with self.stream(
            sample_rate_hz=sample_rate_hz, channels=channels, options=options
        ) as stream:
            async for result in stream.send_all(pieces):
                yield result

    async def transcribe(
        self,
        audio: Audio,
        *,
        sample_rate_hz: float | None = None,
        channels: int = 1,
        encoding: Encoding | None = None,
        channel: int | None = None,
        streaming: bool = False,
        options: StreamOptions = NO_OPTIONS,
        at_once: int = PIECES_AT_ONCE,
        on_progress: Progress = ignore_progress,
    ) -> Transcript:
        """Transcribe a whole file, or samples in memory; arguments as for `Client.transcribe`.

        `on_progress` is called in this event loop.
        """
        self._connection.check_open()
        recognizer = self.served.for_files(streaming or options.needs_stream)
        with open_source(audio, sample_rate_hz, channels, encoding) as source:
            form = AudioFormat(
                source.sample_rate_hz, source.channels, encoding or "linear16", channel
            )
            if isinstance(recognizer, ServerInfo):
                transcript = await self._stream_whole(source, form, on_progress, options)
            else:
                timeouts = self._connection.timeouts
                transcript = await recognize_pieces(
                    self._connection.stub,
                    Recognition(recognizer, timeouts, form, at_once),
                    source,
                    on_progress,
                    self._offline_again,
                )
            return with_remarks(transcript, source)

    async def recognize(
        self,
        audio: Audio,
        *,
        sample_rate_hz: float | None = None,
        channels: int = 1,
        at_once: int = PIECES_AT_ONCE,
        on_progress: Progress = ignore_progress,
    ) -> Transcript:
        """Transcribe with the offline recognizer. Deprecated: call `transcribe`."""
        warnings.warn(RECOGNIZE_DEPRECATED, DeprecationWarning, stacklevel=2)
        require_offline(self.served)
        return await self.transcribe(
            audio,
            sample_rate_hz=sample_rate_hz,
            channels=channels,
            at_once=at_once,
            on_progress=on_progress,
        )

    async def _stream_whole(
        self,
        source: AudioSource,
        form: AudioFormat,
        on_progress: Progress,
        options: StreamOptions,
    ) -> Transcript:
        """Stream all of `source` as fast as the server answers."""
        session = Session(self.info, self._connection.timeouts, form, options)
        async with AsyncStream(session, self._connection, self._look_again) as stream:
            for block in source.blocks():
                await stream.send(block)
                on_progress(session.duration_s)
            return await stream.finish()

    async def _look_again(self) -> Served:
        """Return the recognizers that the server has now, or those known if it does not tell."""
        with contextlib.suppress(EarshotError):
            await self.refresh()
        return self.served

    async def _offline_again(self) -> OfflineInfo | None:
        return (await self._look_again()).offline

    async def is_ready(self) -> bool:
        """Tell whether the recognizer serves now; raise ConnectionFailed if no server answers."""
        self._connection.check_open()
        connect_s = self._connection.timeouts.connect_s
        try:
            answer = await self._connection.stub.ModelReady(
                ready_request(self.served), timeout=connect_s
            )
        except grpc.RpcError as error:
            raise connect_error(error, self._target, connect_s) from error
        return answer.ready


class AsyncStream:
    """One live stream; `AsyncClient.stream` makes it. One task at a time may use it.

    A stream that is not finished is still ended on the server: on leaving its `async with` block,
    on an error, on cancellation, and when it is garbage collected.
    """

    def __init__(
        self,
        session: Session,
        connection: _Connection,
        look_again: Callable[[], Awaitable[Served]],
    ) -> None:
        self._session = session
        self._connection = connection
        self._look_again = look_again
        self._in_flight: asyncio.Future[Any] | None = None
        self._keep_alive = AsyncKeepAlive(self, session.idle_s) if session.keep_alive else None
        self._abandon = weakref.finalize(self, connection.abandon_threadsafe, session)
        connection.streams.add(self)

    async def send(self, piece: Pcm) -> list[ChunkResult]:
        """Send a piece of audio of any length; see `Stream.send`."""
        return await self._deliver(partial(self._session.push, piece))

    async def send_all(
        self, pieces: AsyncIterable[Pcm] | Iterable[Pcm]
    ) -> AsyncGenerator[ChunkResult, None]:
        """Send `pieces` and end the stream; see `Stream.send_all`."""
        try:
            async for piece in _iterate(pieces):
                async with self._sending():
                    with self._session.delivering() as results:
                        while results:
                            yield results.pop(0)
                        for call in self._session.push(piece):
                            yield await self._exchange(call)
            for result in await self.end():
                yield result
        finally:
            self.close()

    async def finalize(self) -> list[ChunkResult]:
        """Send the audio so far, completed with silence; see `Stream.finalize`."""
        return await self._deliver(self._session.finalize)

    async def end(self) -> list[ChunkResult]:
        """Send the remaining audio as the last chunk; return the last results."""
        return await self._deliver(self._session.end)

    async def finish(self) -> Transcript:
        """End the stream unless `end` has; return the transcript."""
        if not self._session.finished:
            await self.end()
        return self.transcript

    @property
    def tag(self) -> str:
        """Return the tag of the stream: that of its options, or a random one."""
        return self._session.tag

    @property
    def transcript(self) -> Transcript:
        """Return the transcript so far."""
        return self._session.transcript

    def close(self) -> None:
        """Close the stream without waiting for the server; audio that is not sent is dropped."""
        self._abandon.detach()
        if self._keep_alive is not None:
            self._keep_alive.stop()
        self._connection.abandon(self._session, self._in_flight)

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.add_transcript(error)
        try:
            if error is None and self._session.has_more:
                await self.end()
        finally:
            self.close()

    async def send_silence(self) -> None:
        """Keep the stream open while there is nothing to send; `KeepAlive` calls this."""
        try:
            for call in self._session.wait():
                self._session.keep(await self._exchange(call))
        except EarshotError as error:
            self._session.fail(error)
            raise

    async def _deliver(self, calls: Callable[[], Iterator[Call]]) -> list[ChunkResult]:
        """Exchange calls; return their results, and those that silence has brought."""
        async with self._sending():
            with self._session.delivering() as results:
                for call in calls():
                    results.append(await self._exchange(call))
        return results

    @asynccontextmanager
    async def _sending(self) -> AsyncGenerator[None, None]:
        with self._session.in_use():
            async with self._keep_alive or contextlib.nullcontext():
                yield

    async def _exchange(self, call: Call) -> ChunkResult:
        session = self._session
        sent_s = time.monotonic()
        try:
            return session.receive(call, await self._reply(call), sent_s, time.monotonic())
        except BaseException as error:
            self.close()
            if isinstance(error, grpc.RpcError):
                raise session.explain(call, error) from error
            raise

    async def _reply(self, call: Call) -> Any:
        """Return the reply to `call`, which is sent again where a stream may still begin."""
        try:
            return await self._send(call)
        except grpc.RpcError as failure:
            repeat = self._session.may_repeat(call, failure)
            if not repeat and not await self._move(call, failure):
                raise
        return await self._send(call)

    async def _move(self, call: Call, failure: Any) -> bool:
        """Begin on the next generation of a model that was just unloaded, if there is one."""
        if not self._session.may_move(call, failure):
            return False
        served = await self._look_again()
        return served.streaming is not None and self._session.move(call, served.streaming)

    async def _send(self, call: Call) -> Any:
        # Neither a cancelled task nor a deadline may cancel the chunk on the server: all stages
        # must have processed it when the END that follows arrives.
        self._in_flight = asyncio.ensure_future(self._connection.infer(call, self._session))
        # Unlike wait_for, wait does not cancel the call at the deadline or with the task.
        if not (await asyncio.wait((self._in_flight,), timeout=call.deadline_s))[0]:
            raise self._session.time_out(call)
        if self._in_flight.cancelled():
            raise self._session.close_error()
        return self._in_flight.result()


class _Connection:
    """The calls of one client, and its background tasks."""

    def __init__(self, stub: Any, timeouts: Timeouts) -> None:
        self.stub = stub
        self.timeouts = timeouts
        self.streams: weakref.WeakSet[AsyncStream] = weakref.WeakSet()
        self._loop = asyncio.get_running_loop()
        self._ends: set[asyncio.Task[None]] = set()
        self.home = HomeProcess()
        self.closed = False

    def check_open(self) -> None:
        """Raise StreamClosed if the client is closed, or of another process."""
        self.home.check()
        if self.closed:
            raise StreamClosed(CLIENT_CLOSED)

    async def ask(self, handshake: Handshake) -> Served:
        """Send the requests of a handshake; return its result."""
        self.check_open()
        try:
            questions = next(handshake)
            while True:
                questions = handshake.send(await self._answers(questions))
        except StopIteration as end:
            return end.value

    async def _answers(self, questions: list[Question]) -> list[Any]:
        calls: list[Awaitable[Any]] = [
            getattr(self.stub, question.method)(question.request, timeout=self.timeouts.connect_s)
            for question in questions
        ]
        return list(await asyncio.gather(*map(_answer, calls)))

    async def infer(self, call: Call, session: Session) -> Any:
        return await self.stub.ModelInfer(
            call.request, timeout=call.wire_s, metadata=session.metadata
        )

    def abandon(self, session: Session, in_flight: asyncio.Future[Any] | None) -> None:
        """Send END in the background, after the reply to the chunk in flight."""
        request = session.abandon()
        if request is None:
            return
        end = asyncio.ensure_future(self._end(request, session, in_flight))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    def abandon_threadsafe(self, session: Session) -> None:
        """Abandon from a finalizer, in any thread, even after the loop has ended; never raise."""
        with contextlib.suppress(Exception):
            self._loop.call_soon_threadsafe(self.abandon, session, None)

    async def close(self) -> None:
        self.closed = True
        for stream in tuple(self.streams):
            stream.close()
        await asyncio.sleep(0)  # lets calls that finalizers have scheduled run
        if self._ends:
            await asyncio.wait(self._ends, timeout=self.timeouts.close_s)
        late = tuple(self._ends)
        for end in late:
            end.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _end(
        self, request: Any, session: Session, in_flight: asyncio.Future[Any] | None
    ) -> None:
        if in_flight is not None:
            await asyncio.gather(in_flight, return_exceptions=True)
        with contextlib.suppress(grpc.RpcError):  # the stream is over for the client
            try:
                await self._send_end(request, session)
            except grpc.RpcError as failure:
                if is_broken_connection(failure):
                    await self._send_end(request, session)

    async def _send_end(self, request: Any, session: Session) -> None:
        await self.stub.ModelInfer(request, timeout=session.idle_s, metadata=session.metadata)


async def _answer(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.RpcError as failure:
        return failure


async def _iterate(pieces: AsyncIterable[Pcm] | Iterable[Pcm]) -> AsyncIterator[Pcm]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece
