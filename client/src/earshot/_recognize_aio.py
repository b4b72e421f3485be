"""Sends the pieces of a recording from a few tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from ._recognition import PieceCall, Recognition
from ._source import AudioSource, Progress
from ._transcript import Transcript


async def recognize_pieces(
    stub: Any, recognition: Recognition, source: AudioSource, on_progress: Progress
) -> Transcript:
    """Recognize the pieces of `source`, which is read no faster than the server answers."""
    sender = _Sender(stub, recognition, on_progress)
    with recognition.keeping_text():
        try:
            for block in source.blocks():
                for call in recognition.push(block):
                    await sender.send(call)
                await asyncio.sleep(0)  # reading must not starve what else runs in this loop
            for call in recognition.end():
                await sender.send(call)
        except Exception:
            await sender.wait()  # what was read before an error of the audio still counts
            raise
        except BaseException:
            sender.cancel()
            raise
        await sender.wait()
    return recognition.finish()


class _Sender:
    """A few pieces under way."""

    def __init__(self, stub: Any, recognition: Recognition, on_progress: Progress) -> None:
        self._infer = stub.ModelInfer
        self._recognition = recognition
        self._on_progress = on_progress
        self._places = asyncio.Semaphore(recognition.at_once)
        self._tasks: list[asyncio.Task[None]] = []

    async def send(self, call: PieceCall) -> None:
        """Takes a piece; waits while all places are taken."""
        await self._places.acquire()
        self._tasks.append(asyncio.ensure_future(self._see_through(call)))

    async def wait(self) -> None:
        """Until every piece is answered or given up; cancelled, it cancels them."""
        try:
            await asyncio.gather(*self._tasks)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Gives up what is under way."""
        for task in self._tasks:
            task.cancel()

    async def _see_through(self, call: PieceCall) -> None:
        try:
            while (delay_s := await self._try(call)) is not None:
                await asyncio.sleep(delay_s)
            self._on_progress(self._recognition.done(call))
        finally:
            self._places.release()

    async def _try(self, call: PieceCall) -> float | None:
        """Sends `call` once; returns the wait before the next try, if there is to be one."""
        try:
            reply = await self._infer(call.request, timeout=self._recognition.timeout_s)
        except grpc.RpcError as failure:
            return self._recognition.fail(call, failure)
        self._recognition.receive(call, reply)
        return None
