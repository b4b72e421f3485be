"""Send the pieces of a recording from a few tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from ._errors import InvalidAudio, StreamClosed
from ._recognition import PieceCall, Recognition, Retry
from ._server_info import OfflineInfo
from ._session import CLIENT_CLOSED
from ._source import AudioSource, Progress
from ._transcript import Transcript

LookAgain = Callable[[], Awaitable[OfflineInfo | None]]


async def recognize_pieces(
    stub: Any,
    recognition: Recognition,
    source: AudioSource,
    on_progress: Progress,
    look_again: LookAgain,
) -> Transcript:
    """Recognize the pieces of `source`, which is read no faster than the server answers.

    `look_again` returns the recognizer that the server has now, or None.
    """
    sender = _Sender(stub, recognition, on_progress, look_again)
    with recognition.keeping_text():
        unreadable = None
        try:
            try:
                for block in source.blocks():
                    for call in recognition.push(block):
                        await sender.send(call)
                    await asyncio.sleep(0)  # lets other tasks of this loop run
            except InvalidAudio as error:
                unreadable = error
            for call in recognition.end():
                await sender.send(call)
        except Exception:
            await sender.wait()  # audio that was read before an error still counts
            raise
        except BaseException:
            sender.cancel()
            raise
        await sender.wait()
        if unreadable:
            raise unreadable  # what was read before it has been recognized
    return recognition.finish()


class _Sender:
    """Keeps a few pieces in flight."""

    def __init__(
        self, stub: Any, recognition: Recognition, on_progress: Progress, look_again: LookAgain
    ) -> None:
        self._infer = stub.ModelInfer
        self._recognition = recognition
        self._on_progress = on_progress
        self._look_again = look_again
        self._free = asyncio.Semaphore(recognition.at_once)
        self._tasks: list[asyncio.Task[None]] = []

    async def send(self, call: PieceCall) -> None:
        """Send a piece; wait while the allowed number is in flight."""
        await self._free.acquire()
        self._tasks.append(asyncio.ensure_future(self._deliver(call)))

    async def wait(self) -> None:
        """Wait until every piece is answered or given up; if cancelled, cancel the pieces."""
        try:
            await asyncio.gather(*self._tasks)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Give up the pieces in flight."""
        for task in self._tasks:
            task.cancel()

    async def _deliver(self, call: PieceCall) -> None:
        try:
            while (retry := await self._attempt(call)) is not None:
                await asyncio.sleep(retry.delay_s)
                if retry.look_again:
                    self._recognition.move(call, await self._look_again())
            self._on_progress(self._recognition.done(call))
        finally:
            self._free.release()

    async def _send(self, call: PieceCall) -> Any:
        return await self._infer(
            call.request, timeout=self._recognition.timeout_s, metadata=call.trace
        )

    async def _attempt(self, call: PieceCall) -> Retry | None:
        """Send `call` once; return how to retry it, or None if it is done."""
        rpc = asyncio.ensure_future(self._send(call))
        try:
            # Unlike await, wait distinguishes a cancelled task from a call that the client has
            # cancelled.
            await asyncio.wait((rpc,))
        except asyncio.CancelledError:
            rpc.cancel()
            raise
        if rpc.cancelled():
            raise StreamClosed(CLIENT_CLOSED)
        try:
            self._recognition.receive(call, rpc.result())
        except grpc.RpcError as failure:
            return self._recognition.fail(call, failure, time.monotonic())
        return None
