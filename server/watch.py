"""Watch a running server: end it if a stage fails, and drain it when it is asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from types import FrameType

from .admission import INTERVAL_S, Admission
from .canary import Canary
from .errors import Unhealthy
from .heartbeats import Work
from .launch import Triton
from .stages import POLL_S, StageWatch

_CANARY_S = 1.0
_PATIENCE_S = 60.0
"""Longer than any chunk waits on a server that is merely overloaded."""
_POLLS_PER_POOL_CHECK = 20


class _DrainRequested(BaseException):
    """SIGTERM has come; not an Exception, so that no other handler takes it for a failure."""


def stop_on_sigterm() -> None:
    """Make SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def watch(
    triton: Triton,
    drain_s: float,
    chunk_share: float | None,
    report: Callable[[str], None],
    announce: Callable[[], None],
) -> None:
    """Return when the server has ended; the first SIGTERM drains it.

    Args:
        announce: called when SIGTERM drains and the processes of the stages are known.
        chunk_share: refuse new streams with which chunks would take longer than this share of
            their length.

    Raises:
        Unhealthy: a stage is dead, hangs or fails.
        KeyboardInterrupt: a second SIGTERM, or Ctrl-C.
    """
    try:
        signal.signal(signal.SIGTERM, _request_drain)
        stages = StageWatch(triton.process.pid, triton.heartbeats)
        announce()
        with _admission(triton, chunk_share), _canaries(triton) as failures:
            _watch_stages(triton, stages, failures)
    except _DrainRequested:
        report(f"draining: new streams are refused, open ones have up to {drain_s:g} s")
        if triton.drain(drain_s):
            report("drained: all streams have ended")
        else:
            report(f"streams were still open after {drain_s:g} s, and are cut")


def _watch_stages(triton: Triton, stages: StageWatch, failures: list[str]) -> None:
    polls = 0
    while triton.process.wait(POLL_S) is None:
        problem = stages.look() or next(iter(failures), None)
        if problem is not None and triton.process.exit_code is None:
            # At once: what hangs would not end by itself, and a new server waits for the port.
            triton.process.kill()
            raise Unhealthy(
                f"{problem}; the server ends, so that a new one can take its place (its log: "
                f"{triton.log_path})"
            )
        polls += 1
        if polls % _POLLS_PER_POOL_CHECK == 0:
            triton.check_state_pool()
            triton.process.hide_shared_memory()  # of models that were loaded since


@contextmanager
def _canaries(triton: Triton) -> Generator[list[str]]:
    """Send canaries from a thread; provide the list to which it adds the failure that ends it."""
    failures: list[str] = []
    stopping = threading.Event()

    def send() -> None:
        with closing(
            Canary(
                triton.grpc_url,
                triton.ensembles,
                triton.access,
                _PATIENCE_S,
                triton.metrics.observe_canary,
                Work(triton.heartbeats),
            )
        ) as canary:
            while not failures and not stopping.wait(_CANARY_S):
                # Once may be bad luck, such as memory that was short for a moment.
                if canary.failure() is not None and (failure := canary.failure()) is not None:
                    failures.append(failure)

    thread = threading.Thread(target=send, name="canary", daemon=True)
    thread.start()
    try:
        yield failures
    finally:
        stopping.set()


@contextmanager
def _admission(triton: Triton, chunk_share: float | None) -> Generator[None]:
    if chunk_share is None:
        yield
        return
    admission = Admission(
        triton.endpoints.triton_metrics_url,
        triton.ensembles,
        triton.heartbeats,
        chunk_share,
        triton.metrics.observe_limit,
    )
    stopping = threading.Event()

    def measure() -> None:
        while not stopping.wait(INTERVAL_S):
            admission.measure()

    threading.Thread(target=measure, name="admission", daemon=True).start()
    try:
        yield
    finally:
        stopping.set()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _request_drain(signum: int, frame: FrameType | None) -> None:
    stop_on_sigterm()
    raise _DrainRequested
