"""The blocking client.

It also runs under gevent, after `monkey.patch_all()` and `grpc.experimental.gevent.init_gevent()`.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent import futures
from functools import partial
from types import TracebackType
from typing import Any

import grpc

from ._attempts import Attempts
from ._errors import EarshotError, StreamClosed
from ._exchange import Ask, Check, Exchanger, Free, Send, Step, Wait
from ._failures import connect_error
from ._format import AudioFormat, Encoding
from ._grpc import Address, Credentials, make_stub, read_address, read_addresses
from ._handshake import Question, Served, ready_request, require_offline, require_streaming
from ._keep_alive import KeepAlive
from ._pcm import Pcm
from ._process import HomeProcess
from ._recognition import PIECES_AT_ONCE, RECOGNIZE_DEPRECATED, Recognition
from ._recognize_sync import recognize_pieces
from ._repository import Repository
from ._sequence import Call, TritonSequence
from ._server_info import OfflineInfo, ServerInfo
from ._servers import READY_REQUEST, Servers
from ._session import CLIENT_CLOSED, Session
from ._source import Audio, AudioSource, Progress, ignore_progress, open_source, with_remarks
from ._span import Headers
from ._stream_options import NO_OPTIONS, StreamOptions
from ._timeouts import Timeouts
from ._transcript import ChunkResult, Resumption, Transcript


def connect(
    url: str | Sequence[str],
    *,
    model: str | None = None,
    tls: bool = False,
    root_certificates: bytes | None = None,
    certificate: bytes | None = None,
    key: bytes | None = None,
    token: str | None = None,
    timeouts: Timeouts | None = None,
) -> Client:
    """Connect to a server and read the parameters of its recognizers.

    Args:
        url: `host`, `host:port`, `grpc://host:port` or `grpcs://host:port`; the default port is
            8001, and grpcs encrypts. Of several, the first that answers takes the streams; they
            change to another one if their server is lost.
        model: The name of a recognizer, if the server has several; `clinic` also selects the
            newest of `clinic_v1`, `clinic_v2`, ...
        tls: Encrypt the connection.
        root_certificates: Certificates in PEM that replace those of the system; implies `tls`.
        certificate: This client's certificate in PEM, for mutual TLS; implies `tls`.
        key: The key of `certificate`, in PEM.
        token: The token that the server asks for.
        timeouts: Deadlines other than the defaults.

    Raises:
        ConnectionFailed: No server answers at this address.
        AccessDenied: The server asks for a token, and got none or a wrong one.
        UnsupportedServer: The server lacks the requested model, or breaks the contract.
    """
    credentials = Credentials(tls, root_certificates, certificate, key, token)
    connection = _Connection(read_addresses(url, credentials), model, timeouts or Timeouts())
    try:
        connection.find_server()
    except BaseException:
        connection.close()
        raise
    return Client(connection)


@contextlib.contextmanager
def open_repository(
    url: str, *, timeouts: Timeouts | None = None, **credentials: Any
) -> Generator[Repository, None, None]:
    """Open the model repository of a server for the length of a `with` block.

    `credentials` are those of `connect`, and `admin_key`.
    """
    timeouts = timeouts or Timeouts()
    shown = Credentials(**credentials)
    address = read_address(url, shown)
    with _open_channel(address, timeouts) as channel:
        yield Repository(make_stub(channel, shown), address.target, timeouts.connect_s)


def _open_channel(address: Address, timeouts: Timeouts) -> Any:
    options = address.options(timeouts.keepalive_s)
    if address.tls:
        return grpc.secure_channel(address.target, address.channel_credentials(), options)
    return grpc.insecure_channel(address.target, options)


class Client:
    """A connection to one or several servers; `connect` makes it. Threads may share it.

    Leaving its `with` block ends all open streams.
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    @property
    def served(self) -> Served:
        """Return the recognizers of the server that takes new streams, as they were last seen.

        That was when the client connected, or `refresh` was called, or a stream changed servers.
        """
        return self._connection.servers.served

    @property
    def info(self) -> ServerInfo:
        """Return the streaming recognizer; raise UnsupportedServer if the server has none."""
        return require_streaming(self.served)

    @property
    def offline(self) -> OfflineInfo | None:
        """Return the offline recognizer, or None if the server has none."""
        return self.served.offline

    def refresh(self) -> None:
        """Read the recognizers again, so that new streams use the newest generation.

        Open streams stay with the recognizer on which they began. Raise what `connect` raises.
        """
        self._connection.ask(self._connection.servers.current)

    def stream(
        self,
        *,
        sample_rate_hz: float,
        channels: int = 1,
        encoding: Encoding = "linear16",
        channel: int | None = None,
        options: StreamOptions = NO_OPTIONS,
    ) -> Stream:
        """Open a live stream.

        Args:
            sample_rate_hz: The rate of the audio.
            channels: The number of interleaved channels of the audio.
            encoding: What bytes contain: linear16 (int16, little-endian), or mulaw or alaw (G.711).
            channel: The channel to transcribe, from 1; by default all are averaged.
            options: The behaviour of the stream beyond turning audio into text.
        """
        self._connection.check_open()
        return self._stream(AudioFormat(sample_rate_hz, channels, encoding, channel), options)

    def stream_from(
        self,
        pieces: Iterable[Pcm],
        *,
        sample_rate_hz: float,
        channels: int = 1,
        options: StreamOptions = NO_OPTIONS,
    ) -> Generator[ChunkResult, None, None]:
        """Stream `pieces`; yield the result of each chunk. See `Stream.send_all`."""
        with self.stream(
            sample_rate_hz=sample_rate_hz, channels=channels, options=options
        ) as stream:
            yield from stream.send_all(pieces)

    def transcribe(
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
        """Transcribe a whole file, or samples in memory, with the best recognizer of the server.

        That is the offline recognizer if there is one, else the streaming one. Audio of any length
        is accepted: memory grows with the transcript, not with the audio. The offline recognizer
        takes long audio in pieces, cut at pauses; a piece that fails is tried again, and if it
        fails for good, `Transcript.failed` names the span without text.

        Args:
            audio: The path of a file (wav, flac, ogg, mp3, ...; `-` is standard input), an open
                binary file, samples, or an `AudioSource`.
            sample_rate_hz: The rate of samples; sources, and files with a header, have their own.
            channels: The number of interleaved channels of samples.
            encoding: What bytes contain (linear16 by default, or mulaw or alaw). If it is given, a
                file is read as one without a header, and `sample_rate_hz` is required.
            channel: The channel to transcribe, from 1; by default all are averaged.
            streaming: Stream the audio, as if it were live, even if there is an offline recognizer.
            options: The options of that stream; `endpoint_ms` implies `streaming`.
            at_once: The number of pieces in flight to the offline recognizer at a time.
            on_progress: Called with the seconds of audio that are done; with the offline
                recognizer, on a thread of this client.

        Raises:
            InvalidAudio: The file cannot be read, or the samples are not valid `Pcm`.
            UnsupportedServer: `streaming` is true, and the server has no streaming recognizer.
            StreamError: The stream failed, or all pieces did; then it is the first error.
        """
        self._connection.check_open()
        recognizer = self.served.for_files(streaming or options.needs_stream)
        with open_source(audio, sample_rate_hz, channels, encoding) as source:
            form = AudioFormat(
                source.sample_rate_hz, source.channels, encoding or "linear16", channel
            )
            if isinstance(recognizer, ServerInfo):
                transcript = self._stream_whole(source, form, on_progress, options)
            else:
                timeouts = self._connection.timeouts
                transcript = recognize_pieces(
                    self._connection.stub,
                    Recognition(recognizer, timeouts, form, at_once, options),
                    source,
                    on_progress,
                    self._offline_again,
                )
            return with_remarks(transcript, source)

    def recognize(
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
        return self.transcribe(
            audio,
            sample_rate_hz=sample_rate_hz,
            channels=channels,
            at_once=at_once,
            on_progress=on_progress,
        )

    def _stream_whole(
        self,
        source: AudioSource,
        form: AudioFormat,
        on_progress: Progress,
        options: StreamOptions,
    ) -> Transcript:
        """Stream all of `source` as fast as the server answers."""
        with self._stream(form, options) as stream:
            for block in source.blocks():
                stream.send(block)
                on_progress(stream.duration_s)
            return stream.finish()

    def _stream(self, form: AudioFormat, options: StreamOptions) -> Stream:
        connection = self._connection
        server = connection.servers.current
        session = Session(self.info, connection.timeouts, form, options, server=server)
        return Stream(session, connection)

    def _offline_again(self) -> OfflineInfo | None:
        """Return the server's current offline recognizer, or the last known one if it is silent."""
        with contextlib.suppress(EarshotError):
            self.refresh()
        return self.offline

    def is_ready(self) -> bool:
        """Return whether the recognizer is ready; raise ConnectionFailed if no server answers."""
        connection = self._connection
        connection.check_open()
        connect_s = connection.timeouts.connect_s
        try:
            return connection.stub.ModelReady(ready_request(self.served), timeout=connect_s).ready
        except grpc.RpcError as error:
            raise connect_error(error, connection.servers.target, connect_s) from error

    def close(self) -> None:
        """End open streams and disconnect; wait at most `Timeouts.close_s` for the server."""
        self._connection.close()

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
    """One live stream; `Client.stream` makes it. One thread at a time may use it.

    An unfinished stream is ended on the server when its `with` block is left, on an error, and when
    it is garbage collected.
    """

    def __init__(self, session: Session, connection: _Connection) -> None:
        self._session = session
        self._connection = connection
        self._exchanger = Exchanger(session, connection.servers)
        self._in_flight: Any = None
        self._keep_alive = KeepAlive(self, session.sequence.idle_s) if session.keep_alive else None
        self._abandon = weakref.finalize(self, connection.abandon_garbage, session)
        connection.streams.add(self)

    def send(self, piece: Pcm) -> list[ChunkResult]:
        """Send a piece of audio of any length; return the results of the chunks that it filled.

        Chunks are sent one by one, each after the reply to the previous one. `send` returns at
        once while no chunk is full, else when the last full chunk is answered.

        Raises:
            InvalidAudio: The piece is skipped; the stream goes on.
            StreamError: The stream has ended.
        """
        return self._deliver(partial(self._session.push, piece))

    def send_all(self, pieces: Iterable[Pcm]) -> Generator[ChunkResult, None, None]:
        """Send `pieces` and end the stream; yield the result of each chunk when it is known.

        Leaving the iteration early closes the stream.
        """
        try:
            for piece in pieces:
                with self._sending(), self._session.delivering() as results:
                    while results:
                        yield results.pop(0)
                    for call in self._session.push(piece):
                        yield self._exchange(call)
            yield from self.end()
        finally:
            self.close()

    def finalize(self) -> list[ChunkResult]:
        """Send the audio so far, completed with silence; return the results. The stream goes on.

        Then the text of all audio so far is known, its last word is final, and so is the utterance,
        if the stream has any. The silence does not shift the times of later words.
        """
        return self._deliver(self._session.finalize)

    def end(self) -> list[ChunkResult]:
        """Send the remaining audio as the last chunk; return the last results."""
        return self._deliver(self._session.end)

    def finish(self) -> Transcript:
        """End the stream if it has not ended yet; return the transcript."""
        if not self._session.finished:
            self.end()
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
        """Return the position in the audio up to which the server has answered.

        A new stream that starts a few seconds before this position misses nothing, and the text so
        far has no words from after it.
        """
        return self._session.acknowledged_s

    @property
    def resumptions(self) -> tuple[Resumption, ...]:
        """Return an entry for each time that the stream moved to another or a restarted server.

        The first result after each move has its entry in `ChunkResult.resumed`.
        """
        return self._session.resumptions

    def close(self) -> None:
        """Close the stream without waiting for the server, and drop audio that was not sent."""
        self._abandon.detach()
        if self._keep_alive is not None:
            self._keep_alive.stop()
        self._connection.abandon(self._session, self._in_flight)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.add_transcript(error)
        try:
            if error is None and self._session.has_more:
                self.end()
        finally:
            self.close()

    def send_silence(self) -> None:
        """Keep the stream open while there is nothing to send; `KeepAlive` calls this."""
        try:
            for call in self._session.wait():
                self._session.keep(self._exchange(call))
        except EarshotError as error:
            self._session.fail(error)
            raise

    def _deliver(self, calls: Callable[[], Iterator[Call]]) -> list[ChunkResult]:
        """Exchange calls; return their results, after those of keep-alive silence sent before."""
        with self._sending(), self._session.delivering() as results:
            for call in calls():
                results.append(self._exchange(call))
        return results

    @contextlib.contextmanager
    def _sending(self) -> Generator[None, None, None]:
        with self._session.in_use(), self._keep_alive or contextlib.nullcontext():
            yield

    def _exchange(self, call: Call) -> ChunkResult:
        steps = self._exchanger.exchange(call)
        take: Callable[[], Step] = lambda: next(steps)  # noqa: E731
        try:
            while True:
                step = take()
                try:
                    answer = self._do(step)
                except Exception as error:
                    take = partial(steps.throw, error)
                else:
                    take = partial(steps.send, answer)
        except StopIteration as end:
            return end.value
        except BaseException:
            self.close()
            raise

    def _do(self, step: Step) -> Any:
        """Perform a step; return its answer, or raise its error."""
        connection = self._connection
        match step:
            case Send(call):
                return self._send(call)
            case Ask(server):
                return connection.ask(server)
            case Check(server):
                connection.check(server)
            case Free(sequence):
                connection.free(self._session, sequence, self._in_flight)
            case Wait(delay_s):
                connection.closing.wait(delay_s)

    def _send(self, call: Call) -> Any:
        try:
            self._in_flight = self._connection.infer(
                call.sequence, call.request, call.wire_s, call.trace
            )
            reply = self._in_flight.result(timeout=call.deadline_s)
            if not call.sequence.is_placed:
                call.sequence.stay(self._in_flight.initial_metadata())
            return reply
        except grpc.FutureTimeoutError as error:
            raise self._session.time_out(call) from error
        except (grpc.RpcError, ValueError) as error:
            if self._connection.closed:
                raise self._session.close_error() from error
            raise


class _Connection:
    """The channels and open calls of a client; a stream keeps them alive without the client."""

    def __init__(self, addresses: Sequence[Address], model: str | None, timeouts: Timeouts) -> None:
        self.servers = Servers([address.target for address in addresses], model)
        self.timeouts = timeouts
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.closing = threading.Event()
        self.home = HomeProcess()
        self.closed = False
        self._addresses = addresses
        self._channels: dict[int, Any] = {}
        self._stubs: dict[int, Any] = {}
        self._opening = threading.Lock()
        self._ends: set[futures.Future[None]] = set()
        self._this_thread = threading.local()
        self._garbage: deque[Session] = deque()

    @property
    def stub(self) -> Any:
        """Return the stub of the server that takes new streams."""
        return self._stub(self.servers.current)

    def check_open(self) -> None:
        """Raise StreamClosed if the client is closed, or belongs to another process."""
        self.home.check()
        if self.closed:
            raise StreamClosed(CLIENT_CLOSED)

    def find_server(self) -> None:
        """Find the first server that answers; if none does, raise the error of the first one."""
        errors: list[EarshotError] = []
        for server in range(len(self._addresses)):
            try:
                self.ask(server)
            except EarshotError as error:
                errors.append(error)
            else:
                self.servers.current = server
                return
        raise errors[0]

    def ask(self, server: int) -> Served:
        """Ask a server for its recognizers, and note them."""
        self.check_open()
        questioning = self.servers.handshake(server, self.timeouts.connect_s)
        try:
            questions = next(questioning)
            while True:
                questions = questioning.send(self._answers(server, questions))
        except StopIteration as end:
            self.servers.found(server, end.value)
            return end.value

    def _answers(self, server: int, questions: list[Question]) -> list[Any]:
        calls = [
            getattr(self._stub(server), question.method).future(
                question.request, timeout=self.timeouts.connect_s
            )
            for question in questions
        ]
        return [call.exception() or call.result() for call in calls]

    def check(self, server: int) -> None:
        """Begin to ask a server whether it is ready."""
        ask = self._stub(server).ServerReady.future
        ask(READY_REQUEST, timeout=self.timeouts.connect_s).add_done_callback(
            lambda call: self.servers.checked(server, call.exception())
        )

    def infer(
        self, sequence: TritonSequence, request: Any, wire_s: float, trace: Headers = ()
    ) -> Any:
        """Send one request of a sequence; return a grpc.Future of the reply."""
        self.home.check()
        self._this_thread.in_grpc = True
        try:
            return self._infer(sequence, request, wire_s, trace)
        finally:
            self._this_thread.in_grpc = False
            with contextlib.suppress(IndexError):
                while True:
                    self.abandon(self._garbage.popleft(), None)

    def abandon(self, session: Session, in_flight: Any | None) -> None:
        """Close a stream and end it on its servers, without waiting; never raise."""
        if not self.home.is_here:
            return
        for sequence in session.close():
            self.free(session, sequence, in_flight)

    def free(self, session: Session, sequence: TritonSequence, in_flight: Any | None) -> None:
        """Send END after the reply to the chunk in flight, without waiting; never raise."""
        with contextlib.suppress(Exception):
            request = session.free(sequence)
            if request is None:
                return
            ended: futures.Future[None] = futures.Future()
            self._ends.add(ended)
            ended.add_done_callback(self._ends.discard)

            def end(first: Any) -> None:
                if first is not None and not sequence.is_placed:
                    # The reply to START came too late for the stream, but its END can still use it.
                    sequence.stay(first.initial_metadata())
                self._end(sequence, request, Attempts(sequence.idle_s), ended)

            if in_flight is None:
                end(None)
            else:
                in_flight.add_done_callback(end)

    def _end(
        self,
        sequence: TritonSequence,
        request: Any,
        attempts: Attempts,
        ended: futures.Future[None],
    ) -> None:
        """Send END until it arrives; set `ended` once it has arrived or cannot."""

        def answered(call: Any) -> None:
            delay_s = attempts.delay_s(call)
            if delay_s is None:
                # The sequence is over for the client, whether or not END succeeds.
                ended.set_result(None)
                return
            again = threading.Timer(delay_s, self._end, (sequence, request, attempts, ended))
            again.daemon = True
            again.start()

        try:
            self.infer(sequence, request, sequence.idle_s).add_done_callback(answered)
        except Exception:  # the channel is closed
            ended.set_result(None)

    def abandon_garbage(self, session: Session) -> None:
        """Abandon a stream from a finalizer, which may run while gRPC holds one of its locks."""
        if getattr(self._this_thread, "in_grpc", False):
            self._garbage.append(session)
        else:
            self.abandon(session, None)

    def close(self) -> None:
        if not self.home.is_here:
            return
        self.closing.set()
        for stream in tuple(self.streams):
            stream.close()
        futures.wait(tuple(self._ends), timeout=self.timeouts.close_s)
        self.closed = True
        for channel in tuple(self._channels.values()):
            channel.close()

    def _infer(self, sequence: TritonSequence, request: Any, wire_s: float, trace: Headers) -> Any:
        infer = self._stub(sequence.server).ModelInfer.future
        return infer(request, timeout=wire_s, metadata=sequence.metadata + trace)

    def _stub(self, server: int) -> Any:
        """Return the stub of a server; open its channel when it is first needed."""
        if server not in self._stubs:
            with self._opening:
                if server not in self._stubs:
                    address = self._addresses[server]
                    channel = self._channels[server] = _open_channel(address, self.timeouts)
                    self._stubs[server] = make_stub(channel, address.credentials)
        return self._stubs[server]
