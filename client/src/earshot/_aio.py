"""The asyncio client: the same names and the same rules as the blocking one."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from ._failures import connect_error
from ._grpc import Address, make_stub, read_address
from ._handshake import (
    Handshake,
    Question,
    Served,
    handshake,
    ready_request,
    require_offline,
    require_streaming,
)
from ._pcm import Pcm
from ._recognition import PIECES_AT_ONCE, RECOGNIZE_DEPRECATED, Recognition
from ._recognize_aio import recognize_pieces
from ._server_info import OfflineInfo, ServerInfo
from ._session import Call, Session
from ._source import Audio, AudioSource, Progress, ignore_progress, open_source
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
    timeouts: Timeouts | None = None,
) -> AsyncGenerator[AsyncClient, None]:
    """Connects for the length of an `async with`; arguments and errors as for `connect`."""
    timeouts = timeouts or Timeouts()
    address = read_address(url, tls, root_certificates)
    async with _open_channel(address) as channel:
        line = _Line(make_stub(channel), timeouts)
        served = await line.ask(handshake(address.target, model, timeouts.connect_s))
        try:
            yield AsyncClient(served, line, address.target, model)
        finally:
            await line.close()


def _open_channel(address: Address) -> Any:
    if address.tls:
        return _aio.secure_channel(address.target, address.credentials(), address.options())
    return _aio.insecure_channel(address.target, address.options())


class AsyncClient:
    """A connection to one server; make one with `connect_async`."""

    served: Served
    """Both recognizers, as they were when the client connected or was last refreshed."""

    def __init__(self, served: Served, line: _Line, target: str, model: str | None) -> None:
        self.served = served
        self._line = line
        self._target = target
        self._model = model

    @property
    def info(self) -> ServerInfo:
        """The streaming recognizer; raises UnsupportedServer if the server has none."""
        return require_streaming(self.served)

    @property
    def offline(self) -> OfflineInfo | None:
        """The recognizer of whole files; None if the server has none."""
        return self.served.offline

    async def refresh(self) -> None:
        """Asks the server anew; see `Client.refresh`."""
        connect_s = self._line.timeouts.connect_s
        self.served = await self._line.ask(handshake(self._target, self._model, connect_s))

    def stream(self, *, sample_rate_hz: float, channels: int = 1) -> AsyncStream:
        """A live stream for audio of this rate and number of interleaved channels."""
        session = Session(self.info, self._line.timeouts, sample_rate_hz, channels)
        return AsyncStream(session, self._line)

    async def stream_from(
        self,
        pieces: AsyncIterable[Pcm] | Iterable[Pcm],
        *,
        sample_rate_hz: float,
        channels: int = 1,
    ) -> AsyncGenerator[ChunkResult, None]:
        """A stream of its own for `pieces`; see `Stream.send_all`."""
        async with self.stream(sample_rate_hz=sample_rate_hz, channels=channels) as stream:
            async for result in stream.send_all(pieces):
                yield result

    async def transcribe(
        self,
        audio: Audio,
        *,
        sample_rate_hz: float | None = None,
        channels: int = 1,
        streaming: bool = False,
        at_once: int = PIECES_AT_ONCE,
        on_progress: Progress = ignore_progress,
    ) -> Transcript:
        """Transcribe a whole file, or samples in memory; arguments as for `Client.transcribe`.

        `on_progress` is called in this event loop.
        """
        recognizer = self.served.for_files(streaming)
        with open_source(audio, sample_rate_hz, channels) as source:
            if isinstance(recognizer, ServerInfo):
                return await self._stream_whole(source, on_progress)
            recognition = Recognition(
                recognizer, self._line.timeouts, source.sample_rate_hz, source.channels, at_once
            )
            return await recognize_pieces(self._line.stub, recognition, source, on_progress)

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

    async def _stream_whole(self, source: AudioSource, on_progress: Progress) -> Transcript:
        """Stream all of `source` as fast as the server answers."""
        session = Session(self.info, self._line.timeouts, source.sample_rate_hz, source.channels)
        async with AsyncStream(session, self._line) as stream:
            for block in source.blocks():
                await stream.send(block)
                on_progress(session.duration_s)
            return await stream.finish()

    async def is_ready(self) -> bool:
        """Whether the recognizer serves now; raises ConnectionFailed if nothing answers."""
        connect_s = self._line.timeouts.connect_s
        try:
            answer = await self._line.stub.ModelReady(ready_request(self.served), timeout=connect_s)
        except grpc.RpcError as error:
            raise connect_error(error, self._target, connect_s) from error
        return answer.ready


class AsyncStream:
    """One live stream; make one with `AsyncClient.stream`. One task at a time may use it.

    A stream that is not finished is ended on the server's side in any case: on leaving its
    `async with` block, on an error, on cancellation, and when it is garbage collected.
    """

    def __init__(self, session: Session, line: _Line) -> None:
        self._session = session
        self._line = line
        self._in_flight: asyncio.Future[Any] | None = None
        self._abandon = weakref.finalize(self, line.abandon_threadsafe, session)
        line.streams.add(self)

    async def send(self, piece: Pcm) -> list[ChunkResult]:
        """Takes a piece of audio of any length; see `Stream.send`."""
        return [await self._exchange(call) for call in self._session.push(piece)]

    async def send_all(
        self, pieces: AsyncIterable[Pcm] | Iterable[Pcm]
    ) -> AsyncGenerator[ChunkResult, None]:
        """Sends `pieces` and ends the stream; see `Stream.send_all`."""
        try:
            async for piece in _iterate(pieces):
                for call in self._session.push(piece):
                    yield await self._exchange(call)
            for result in await self.end():
                yield result
        finally:
            self.close()

    async def end(self) -> list[ChunkResult]:
        """Sends what is left as the last chunk; returns what it added."""
        return [await self._exchange(call) for call in self._session.end()]

    async def finish(self) -> Transcript:
        """Ends the stream if `end` has not yet; returns the whole transcript."""
        if not self._session.finished:
            await self.end()
        return self.transcript

    @property
    def transcript(self) -> Transcript:
        """All that has been recognized so far."""
        return self._session.transcript

    def close(self) -> None:
        """Gives the stream up: what it has not sent is dropped. Does not wait for the server."""
        self._abandon.detach()
        self._line.abandon(self._session, self._in_flight)

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.add_transcript(error)
        self.close()

    async def _exchange(self, call: Call) -> ChunkResult:
        session = self._session
        sent_s = time.monotonic()
        # Neither a cancelled task nor a deadline may cancel the chunk on the server: the END that
        # follows must find the stream as all of the server's stages know it.
        self._in_flight = asyncio.ensure_future(self._line.infer(call, session))
        try:
            # Unlike wait_for, wait leaves the call alone when the time is over, or the task ends.
            if not (await asyncio.wait((self._in_flight,), timeout=call.deadline_s))[0]:
                raise session.time_out(call)
            return session.receive(call, self._in_flight.result(), sent_s, time.monotonic())
        except BaseException as error:
            self.close()
            if isinstance(error, grpc.RpcError):
                raise session.explain(call, error) from error
            raise


class _Line:
    """The calls of one client, and what is under way in the background."""

    def __init__(self, stub: Any, timeouts: Timeouts) -> None:
        self.stub = stub
        self.timeouts = timeouts
        self.streams: weakref.WeakSet[AsyncStream] = weakref.WeakSet()
        self._loop = asyncio.get_running_loop()
        self._ends: set[asyncio.Task[None]] = set()

    async def ask(self, asking: Handshake) -> Served:
        """Puts the questions of a handshake to the server."""
        try:
            questions = next(asking)
            while True:
                questions = asking.send(await self._answers(questions))
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
        """Sends END in the background, after the answer to what is in flight."""
        request = session.abandon()
        if request is None:
            return
        end = asyncio.ensure_future(self._end(request, session, in_flight))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    def abandon_threadsafe(self, session: Session) -> None:
        """The same from a finalizer: in any thread, perhaps after the loop; never raises."""
        with contextlib.suppress(Exception):
            self._loop.call_soon_threadsafe(self.abandon, session, None)

    async def close(self) -> None:
        for stream in tuple(self.streams):
            stream.close()
        await asyncio.sleep(0)  # lets what finalizers have scheduled come in
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
        with contextlib.suppress(grpc.RpcError):  # how an END fails is of no use to anyone
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
