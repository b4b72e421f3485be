"""Send the pieces of a recording from a few threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc

from ._errors import InvalidAudio
from ._recognition import PieceCall, Recognition, Retry
from ._server_info import OfflineInfo
from ._source import AudioSource, Progress
from ._transcript import Transcript

LookAgain = Callable[[], OfflineInfo | None]


def recognize_pieces(
    stub: Any,
    recognition: Recognition,
    source: AudioSource,
    on_progress: Progress,
    look_again: LookAgain,
) -> Transcript:
    """Recognize the pieces of `source`, which is read no faster than the server answers.

    `look_again` returns the recognizer that the server has now, or None.
    """
    sending = _Sender(stub, recognition, on_progress, look_again)
    with recognition.keeping_text(), sending as sender:
        unreadable = None
        try:
            for block in source.blocks():
                for call in recognition.push(block):
                    sender.send(call)
        except InvalidAudio as error:
            unreadable = error
        for call in recognition.end():
            sender.send(call)
        if unreadable:
            raise unreadable  # what was read before it has been recognized
    return recognition.finish()


class _Sender:
    """Keeps a few pieces in flight; leaving its `with` block waits for all of them."""

    def __init__(
        self, stub: Any, recognition: Recognition, on_progress: Progress, look_again: LookAgain
    ) -> None:
        self._infer = stub.ModelInfer.future
        self._recognition = recognition
        self._on_progress = on_progress
        self._look_again = look_again
        self._free = threading.Semaphore(recognition.at_once)
        self._pool = ThreadPoolExecutor(recognition.at_once, thread_name_prefix="earshot")
        self._sent: list[Future[None]] = []
        self._under_way: set[Any] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def send(self, call: PieceCall) -> None:
        """Send a piece; wait while the allowed number is in flight."""
        self._free.acquire()
        self._sent.append(self._pool.submit(self._deliver, call))

    def __enter__(self) -> _Sender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Audio that was read before an error still counts; only Ctrl-C stops at once.
        if error is not None and not isinstance(error, Exception):
            self._stop()
        try:
            self._pool.shutdown()
        except BaseException:
            self._stop()
            raise
        if error is None:
            for sent in self._sent:
                sent.result()

    def _deliver(self, call: PieceCall) -> None:
        try:
            retry = self._attempt(call)
            while retry is not None and not self._stopped.wait(retry.delay_s):
                if retry.look_again:
                    self._recognition.move(call, self._look_again())
                retry = self._attempt(call)
            with self._lock:
                self._on_progress(self._recognition.done(call))
        finally:
            self._free.release()

    def _attempt(self, call: PieceCall) -> Retry | None:
        """Send `call` once; return how to retry it, or None if it is done."""
        rpc = self._infer(call.request, timeout=self._recognition.timeout_s, metadata=call.trace)
        self._under_way.add(rpc)
        if self._stopped.is_set():
            rpc.cancel()
        try:
            self._recognition.receive(call, rpc.result())
        except grpc.RpcError as failure:
            return self._recognition.fail(call, failure, time.monotonic())
        except grpc.FutureCancelledError:
            pass
        finally:
            self._under_way.discard(rpc)
        return None

    def _stop(self) -> None:
        self._stopped.set()
        for rpc in tuple(self._under_way):
            rpc.cancel()
