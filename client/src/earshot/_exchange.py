"""Exchange the chunks of one stream with a server, and with another one if it is lost.

This module does no input or output: it yields steps, which the blocking and the asyncio client
perform in their own ways. The error of a step that fails is raised here, at its `yield`.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc

from ._attempts import Attempts
from ._errors import (
    AccessDenied,
    ChunkTimeout,
    ConnectionFailed,
    EarshotError,
    MessageTooLarge,
    ServerBusy,
    ServerDraining,
    StreamClosed,
)
from ._failures import is_forgotten, is_lost, is_unknown_model
from ._handshake import require_streaming
from ._sequence import Call, TritonSequence
from ._servers import Servers
from ._session import Session
from ._transcript import ChunkResult, Resumption, Token

_log = logging.getLogger("earshot")

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 1.0
# A chunk that is lost this often may itself be what crashes the servers.
_LOSSES_PER_CHUNK = 3
# A stream changes servers in a pause of this length, where a seam is safest ...
_PAUSE_MS = 400
# ... but does not wait for one for longer than this.
_LONGEST_WAIT_FOR_PAUSE_S = 5.0
# Time between a failed attempt to change servers and the next one.
_CHANGE_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Send:
    """Send a call to its server; the result is the reply, the error a grpc.RpcError."""

    call: Call


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a server for its recognizers; the result is `Served`, the error an EarshotError."""

    server: int


@dataclass(frozen=True, slots=True)
class Check:
    """Ask a server in the background whether it is ready; `Servers.checked` gets the answer."""

    server: int


@dataclass(frozen=True, slots=True)
class Free:
    """End a sequence on its server, in the background."""

    sequence: TritonSequence


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for `delay_s` seconds."""

    delay_s: float


_T = TypeVar("_T")
Step: TypeAlias = Send | Ask | Check | Free | Wait
Steps: TypeAlias = Generator[Step, Any, _T]


class Exchanger:
    """Exchanges the chunks of one stream."""

    def __init__(self, session: Session, servers: Servers) -> None:
        self._session = session
        self._servers = servers
        self._losses = 0
        """Number of times that the current chunk was lost."""
        self._change_after_s = 0.0
        self._change_by_s: float | None = None

    def exchange(self, call: Call) -> Steps[ChunkResult]:
        """Yield the steps from a chunk to its result; raise an EarshotError if the stream ends."""
        try:
            return (yield from self._exchange(call))
        except EarshotError as error:
            self._session.span.failed(error)
            raise

    def _exchange(self, call: Call) -> Steps[ChunkResult]:
        sent_s = time.monotonic()
        cause = ""
        if self._servers.is_check_due(call.sequence.server):
            yield Check(call.sequence.server)
        if self._should_change(call):
            call, cause = yield from self._change(call)
        try:
            reply = yield Send(call)
        except grpc.RpcError as failure:
            if call.index == 0:
                call, reply = yield from self._start_again(call, failure)
            else:
                cause = str(self._session.explain(call, failure))
                call, reply = yield from self._resume(call, failure)
        received_s = time.monotonic()
        resumed = self._report(call, cause, received_s - sent_s) if cause else None
        return self._session.receive(call, reply, sent_s, received_s, resumed)

    def _start_again(self, call: Call, failure: Any) -> Steps[tuple[Call, Any]]:
        """Begin the stream again, if need be on another server; return the call and its reply."""
        attempts = Attempts(call.deadline_s)
        while (delay_s := attempts.delay_s(failure)) is not None:
            yield Wait(delay_s)
            self._session.check_open()
            try:
                return call, (yield Send(call))
            except grpc.RpcError as another:
                failure = another
        error = self._session.explain(call, failure)
        for server in self._starting_places(call.sequence.server, failure, error):
            try:
                begun = yield from self._carry_on(server, call, math.inf)
            except EarshotError:
                continue
            if isinstance(error, (ConnectionFailed, ServerDraining)):
                self._servers.current = server
            return begun
        raise error from failure

    def _starting_places(self, home: int, failure: Any, error: EarshotError) -> Iterator[int]:
        """Yield the servers that may take a new stream after `home` did not."""
        if is_unknown_model(failure):
            # A newer generation may have replaced the model.
            yield home
        if is_lost(failure) or isinstance(error, ServerBusy):
            yield from self._servers.others(home)

    def _resume(self, call: Call, failure: Any) -> Steps[tuple[Call, Any]]:
        """Continue the stream on any server that can; return the call and its reply."""
        resume_s = self._session.timeouts.resume_s
        error = last = self._session.explain(call, failure)
        if not (resume_s and is_lost(failure)):
            raise error from failure
        _log.warning("%s; trying for %g s to carry the stream on", error, resume_s)
        yield Free(call.sequence)
        deadline_s = time.monotonic() + resume_s
        delay_s = _FIRST_DELAY_S
        self._losses = 1
        while True:
            for server in self._resuming_places(call.sequence.server, failure):
                try:
                    return (yield from self._carry_on(server, call, deadline_s))
                except (AccessDenied, MessageTooLarge, StreamClosed):
                    raise
                except EarshotError as another:
                    last = another
                    if self._losses >= _LOSSES_PER_CHUNK:
                        raise
            if time.monotonic() + delay_s > deadline_s:
                raise self._session.lost(f"{error}; after {resume_s:g} s, {last}") from last
            # Many streams may have lost the same server: they should not all return at once.
            yield Wait(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    def _resuming_places(self, home: int, failure: Any) -> Iterator[int]:
        """Yield all servers, the current one last unless it is up and only forgot the stream."""
        if is_forgotten(failure):
            yield home
            yield from self._servers.others(home)
        else:
            yield from self._servers.others(home)
            yield home

    def _carry_on(self, server: int, call: Call, deadline_s: float) -> Steps[tuple[Call, Any]]:
        """Continue the stream on a server, with the chunk that has not been answered yet."""
        sequence = yield from self._replay(server, deadline_s)
        again = sequence.write(call.chunk, call.index)
        try:
            return again, (yield Send(again))
        except grpc.RpcError as failure:
            self._losses += 1
            yield Free(sequence)
            raise self._session.explain(again, failure) from failure
        except ChunkTimeout:
            yield Free(sequence)
            raise

    def _replay(self, server: int, deadline_s: float) -> Steps[TritonSequence]:
        """Replay the last seconds of audio to a server; move the stream to the new sequence there.

        If that fails, the stream keeps its sequence.
        """
        session = self._session
        served = yield Ask(server)
        sequence = session.sequence_on(require_streaming(served), server)
        replayed: list[Token] = []
        try:
            for call in session.repeat(sequence):
                try:
                    replayed += session.read(call, (yield Send(call)))
                except grpc.RpcError as failure:
                    raise session.explain(call, failure) from failure
                if time.monotonic() > deadline_s:
                    raise session.lost(f"{sequence.info.url} is too slow to continue it in time")
        except EarshotError:
            yield Free(sequence)
            raise
        session.switch(sequence, replayed)
        return sequence

    def _should_change(self, call: Call) -> bool:
        """Return whether to leave the server before this chunk because it is about to stop."""
        if not self._servers.should_leave(call.sequence.server):
            self._change_by_s = None
            return False
        now_s = time.monotonic()
        if self._change_by_s is None:
            self._change_by_s = now_s + _LONGEST_WAIT_FOR_PAUSE_S
        return (
            call.index > 0
            and self._session.timeouts.resume_s > 0
            and now_s > self._change_after_s
            and (now_s > self._change_by_s or self._session.pause_ms >= _PAUSE_MS)
        )

    def _change(self, call: Call) -> Steps[tuple[Call, str]]:
        """Change to another server, if one takes the stream; return the call and the cause."""
        before = call.sequence
        for server in self._servers.others(before.server):
            deadline_s = time.monotonic() + self._session.timeouts.chunk_s
            try:
                sequence = yield from self._replay(server, deadline_s)
            except StreamClosed:
                raise
            except EarshotError as error:
                _log.info("%s is about to stop, and %s", before.info.url, error)
                continue
            yield Free(before)
            call = sequence.write(call.chunk, call.index)
            return call, f"{before.info.url} is about to stop"
        self._change_after_s = time.monotonic() + _CHANGE_AGAIN_S
        return call, ""

    def _report(self, call: Call, cause: str, gap_s: float) -> Resumption:
        url = call.sequence.info.url
        resumed = Resumption(self._session.acknowledged_s, round(1000 * gap_s), url, cause)
        _log.warning(
            "%s carries the stream on from %.2f s, after %d ms (%s)",
            url,
            resumed.position_s,
            resumed.gap_ms,
            cause,
        )
        return resumed
