"""Keep a stream open on the server while its caller sends nothing.

A server drops a stream that is idle for too long, so silence is sent to it. The times of later
words do not include this silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Awaitable
from types import TracebackType
from typing import Protocol

from ._errors import EarshotError

_SHARE_OF_IDLE = 1 / 3
"""Silence is sent after this share of the time after which the server drops an idle stream."""


class BlockingStream(Protocol):
    """A stream of the blocking client."""

    def send_silence(self) -> None:
        """Send silence; the stream keeps the results."""
        ...


class AwaitedStream(Protocol):
    """A stream of the asyncio client."""

    def send_silence(self) -> Awaitable[None]:
        """Send silence; the stream keeps the results."""
        ...


class KeepAlive:
    """Sends silence from a thread, except while the caller sends inside its `with` block."""

    def __init__(self, stream: BlockingStream, idle_s: float) -> None:
        self._stream = weakref.ref(stream)
        self._interval_s = idle_s * _SHARE_OF_IDLE
        self._due_s = time.monotonic() + self._interval_s
        self._sending = threading.Lock()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="earshot keep-alive", daemon=True).start()

    def __enter__(self) -> None:
        self._sending.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._due_s = time.monotonic() + self._interval_s
        self._sending.release()

    def stop(self) -> None:
        """Stop; any thread may call this."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(max(0.0, self._due_s - time.monotonic())):
            with self._sending:
                stream = self._stream()
                if stream is None or self._stopped.is_set():
                    return
                if time.monotonic() >= self._due_s:
                    with contextlib.suppress(EarshotError):  # the next call raises it
                        stream.send_silence()
                    self._due_s = time.monotonic() + self._interval_s
                del stream


class AsyncKeepAlive:
    """Sends silence from a task, except while the caller sends inside its `async with` block."""

    def __init__(self, stream: AwaitedStream, idle_s: float) -> None:
        self._stream = weakref.ref(stream)
        self._interval_s = idle_s * _SHARE_OF_IDLE
        self._due_s = time.monotonic() + self._interval_s
        self._sending = asyncio.Lock()
        self._stopped = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def __aenter__(self) -> None:
        await self._sending.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._due_s = time.monotonic() + self._interval_s
        self._sending.release()

    def stop(self) -> None:
        """Stop."""
        self._stopped = True
        if asyncio.current_task() is not self._task:
            self._task.cancel()

    async def _run(self) -> None:
        while not self._stopped:
            await asyncio.sleep(max(0.0, self._due_s - time.monotonic()))
            async with self._sending:
                stream = self._stream()
                if stream is None or self._stopped:
                    return
                if time.monotonic() >= self._due_s:
                    with contextlib.suppress(EarshotError):  # the next call raises it
                        await stream.send_silence()
                    self._due_s = time.monotonic() + self._interval_s
                del stream
