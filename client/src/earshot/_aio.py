"""The asyncio client, with the names and rules of the blocking one."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from ._attempts import Attempts
from ._errors import EarshotError, StreamClosed
from ._exchange import Ask, Check, Exchanger, Free, Send, Step, Wait
from ._failures import connect_error
from ._format import AudioFormat, Encoding
from ._grpc import Address, Credentials, make_stub, read_addresses
from ._handshake import Question, Served, ready_request, require_offline, require_streaming
from ._keep_alive import AsyncKeepAlive
from ._pcm import Pcm
from ._process import HomeProcess
from ._recognition import PIECES_AT_ONCE, RECOGNIZE_DEPRECATED, Recognition
from ._recognize_aio import recognize_pieces
from ._sequence import Call, TritonSequence
from ._server_info import OfflineInfo, ServerInfo
from ._servers import READY_REQUEST, Servers
from ._session import CLIENT_CLOSED, Session
from ._source import Audio, AudioSource, Progress, ignore_progress, open_source, with_remarks
from ._span import Headers
from ._stream_options import NO_OPTIONS, StreamOptions
from ._timeouts import Timeouts
from ._transcript import ChunkResult, Resumption, Transcript

_aio: Any = grpc.aio


@asynccontextmanager
async def connect_async(
    url: str | Sequence[str],
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
    credentials = Credentials(tls, root_certificates, certificate, key, token)
    connection = _Connection(read_addresses(url, credentials), model, timeouts or Timeouts())
    try:
        await connection.find_server()
        yield AsyncClient(connection)
    finally:
        await connection.close()


def _open_channel(address: Address, timeouts: Timeouts) -> Any:
    options = address.options(timeouts.keepalive_s)
    if address.tls:
        return _aio.secure_channel(address.target, address.channel_credentials(), options)
    return _aio.insecure_channel(address.target, options)


class AsyncClient:
    """A connection to one or several servers; `connect_async` makes it."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    @property
    def served(self) -> Served:
        """Return the recognizers of the server that takes new streams; see `Client.served`."""
        return self._connection.servers.served

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
        await self._connection.ask(self._connection.servers.current)

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
        return self._stream(AudioFormat(sample_rate_hz, channels, encoding, channel), options)

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
                    Recognition(recognizer, timeouts, form, at_once, options),
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
        async with self._stream(form, options) as stream:
            for block in source.blocks():
                await stream.send(block)
                on_progress(stream.duration_s)
            return await stream.finish()

    def _stream(self, form: AudioFormat, options: StreamOptions) -> AsyncStream:
        connection = self._connection
        server = connection.servers.current
        session = Session(self.info, connection.timeouts, form, options, server=server)
        return AsyncStream(session, connection)

    async def _offline_again(self) -> OfflineInfo | None:
        """Return the server's current offline recognizer, or the last known one if it is silent."""
        with contextlib.suppress(EarshotError):
            await self.refresh()
        return self.offline

    async def is_ready(self) -> bool:
        """Return whether the recognizer is ready; raise ConnectionFailed if no server answers."""
        connection = self._connection
        connection.check_open()
        connect_s = connection.timeouts.connect_s
        try:
            answer = await connection.stub.ModelReady(ready_request(self.served), timeout=connect_s)
        except grpc.RpcError as error:
            raise connect_error(error, connection.servers.target, connect_s) from error
        return answer.ready


class AsyncStream:
    """One live stream; `AsyncClient.stream` makes it. One task at a time may use it.

    An unfinished stream is ended on the server when its `async with` block is left, on an error, on
    cancellation, and when it is garbage collected.
    """

    def __init__(self, session: Session, connection: _Connection) -> None:
        self._session = session
        self._connection = connection
        self._exchanger = Exchanger(session, connection.servers)
        self._in_flight: asyncio.Future[Any] | None = None
        self._keep_alive = (
            AsyncKeepAlive(self, session.sequence.idle_s) if session.keep_alive else None
        )
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
        """End the stream if it has not ended yet; return the transcript."""
        if not self._session.finished:
            await self.end()
        return self.transcript

    @property
    def tag(self) -> str:
        """Return the tag of the stream: the one in its options, or a random one."""
        return self._session.tag

    @property
    def transcript(self) -> Transcript:
        """Return the transcript so far."""
        return self._session.transcript

    @property
    def duration_s(self) -> float:
        """Return the length of the audio sent so far, in seconds."""
        return self._session.duration_s

    @property
    def acknowledged_s(self) -> float:
        """Return the position in the audio up to which the server has answered; see `Stream`."""
        return self._session.acknowledged_s

    @property
    def resumptions(self) -> tuple[Resumption, ...]:
        """Return an entry for each time that the stream changed servers; see `Stream`."""
        return self._session.resumptions

    def close(self) -> None:
        """Close the stream without waiting for the server, and drop audio that was not sent."""
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
        """Exchange calls; return their results, after those of keep-alive silence sent before."""
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
        steps = self._exchanger.exchange(call)
        take: Callable[[], Step] = lambda: next(steps)  # noqa: E731
        try:
            while True:
                step = take()
                try:
                    answer = await self._do(step)
                except Exception as error:
                    take = partial(steps.throw, error)
                else:
                    take = partial(steps.send, answer)
        except StopIteration as end:
            return end.value
        except BaseException:
            self.close()
            raise

    async def _do(self, step: Step) -> Any:
        """Perform a step; return its answer, or raise its error."""
        connection = self._connection
        match step:
            case Send(call):
                return await self._send(call)
            case Ask(server):
                return await connection.ask(server)
            case Check(server):
                connection.check(server)
            case Free(sequence):
                connection.free(self._session, sequence, self._in_flight)
            case Wait(delay_s):
                await asyncio.sleep(delay_s)

    async def _send(self, call: Call) -> Any:
        # Neither a cancelled task nor a deadline may cancel the chunk on the server: all stages
        # must have processed it when the END that follows arrives.
        self._in_flight = asyncio.ensure_future(
            self._connection.infer(call.sequence, call.request, call.wire_s, call.trace)
        )
        # Unlike wait_for, wait does not cancel the call at the deadline or with the task.
        if not (await asyncio.wait((self._in_flight,), timeout=call.deadline_s))[0]:
            raise self._session.time_out(call)
        if self._in_flight.cancelled():
            raise self._session.close_error()
        return self._in_flight.result()


class _Connection:
    """The channels of one client, its calls, and its background tasks."""

    def __init__(self, addresses: Sequence[Address], model: str | None, timeouts: Timeouts) -> None:
        self.servers = Servers([address.target for address in addresses], model)
        self.timeouts = timeouts
        self.streams: weakref.WeakSet[AsyncStream] = weakref.WeakSet()
        self._addresses = addresses
        self._channels: dict[int, Any] = {}
        self._stubs: dict[int, Any] = {}
        self._loop = asyncio.get_running_loop()
        self._ends: set[asyncio.Task[None]] = set()
        self._checks: set[asyncio.Task[None]] = set()
        self.home = HomeProcess()
        self.closed = False

    @property
    def stub(self) -> Any:
        """Return the stub of the server that takes new streams."""
        return self._stub(self.servers.current)

    def check_open(self) -> None:
        """Raise StreamClosed if the client is closed, or belongs to another process."""
        self.home.check()
        if self.closed:
            raise StreamClosed(CLIENT_CLOSED)

    async def find_server(self) -> None:
        """Find the first server that answers; if none does, raise the error of the first one."""
        errors: list[EarshotError] = []
        for server in range(len(self._addresses)):
            try:
                await self.ask(server)
            except EarshotError as error:
                errors.append(error)
            else:
                self.servers.current = server
                return
        raise errors[0]

    async def ask(self, server: int) -> Served:
        """Ask a server for its recognizers, and note them."""
        self.check_open()
        questioning = self.servers.handshake(server, self.timeouts.connect_s)
        try:
            questions = next(questioning)
            while True:
                questions = questioning.send(await self._answers(server, questions))
        except StopIteration as end:
            self.servers.found(server, end.value)
            return end.value

    async def _answers(self, server: int, questions: list[Question]) -> list[Any]:
        stub = self._stub(server)
        calls: list[Awaitable[Any]] = [
            getattr(stub, question.method)(question.request, timeout=self.timeouts.connect_s)
            for question in questions
        ]
        return list(await asyncio.gather(*map(_answer, calls)))

    def check(self, server: int) -> None:
        """Begin to ask a server whether it is ready."""
        self._in_background(self._check(server), self._checks)

    async def _check(self, server: int) -> None:
        ask = self._stub(server).ServerReady
        answer = await _answer(ask(READY_REQUEST, timeout=self.timeouts.connect_s))
        self.servers.checked(server, answer if isinstance(answer, grpc.RpcError) else None)

    async def infer(
        self, sequence: TritonSequence, request: Any, wire_s: float, trace: Headers = ()
    ) -> Any:
        """Send one request of a sequence; return the reply."""
        infer = self._stub(sequence.server).ModelInfer
        call = infer(request, timeout=wire_s, metadata=sequence.metadata + trace)
        reply = await call
        if not sequence.is_placed:
            sequence.stay(await call.initial_metadata())
        return reply

    def abandon(self, session: Session, in_flight: asyncio.Future[Any] | None) -> None:
        """Close a stream and end it on its servers, in the background."""
        for sequence in session.close():
            self.free(session, sequence, in_flight)

    def free(
        self, session: Session, sequence: TritonSequence, in_flight: asyncio.Future[Any] | None
    ) -> None:
        """Send END in the background, after the reply to the chunk in flight."""
        request = session.free(sequence)
        if request is not None:
            self._in_background(self._end(sequence, request, in_flight), self._ends)

    def abandon_threadsafe(self, session: Session) -> None:
        """Abandon a stream from a finalizer, in any thread, even after the loop; never raise."""
        with contextlib.suppress(Exception):
            self._loop.call_soon_threadsafe(self.abandon, session, None)

    async def close(self) -> None:
        self.closed = True
        for stream in tuple(self.streams):
            stream.close()
        await asyncio.sleep(0)  # lets calls that finalizers have scheduled run
        if self._ends:
            await asyncio.wait(self._ends, timeout=self.timeouts.close_s)
        late = (*self._ends, *self._checks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for channel in tuple(self._channels.values()):
            await channel.close()

    async def _end(
        self, sequence: TritonSequence, request: Any, in_flight: asyncio.Future[Any] | None
    ) -> None:
        if in_flight is not None:
            await asyncio.gather(in_flight, return_exceptions=True)
        attempts = Attempts(sequence.idle_s)
        while True:
            try:
                await self.infer(sequence, request, sequence.idle_s)
                return
            except grpc.RpcError as failure:
                delay_s = attempts.delay_s(failure)
            if delay_s is None:  # the sequence is over for the client
                return
            await asyncio.sleep(delay_s)

    def _in_background(
        self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]
    ) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _stub(self, server: int) -> Any:
        """Return the stub of a server; open its channel when it is first needed."""
        if server not in self._stubs:
            address = self._addresses[server]
            channel = self._channels[server] = _open_channel(address, self.timeouts)
            self._stubs[server] = make_stub(channel, address.credentials)
        return self._stubs[server]


async def _answer(call: Awaitable[Any]) -> Any:
    """Return the reply to a call, or the error with which it failed."""
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
