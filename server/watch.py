"""Watch a running server: end it if a stage fails, and drain it when it is asked to stop."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from .admission import INTERVAL_S, Admission
from .errors import Unhealthy
from .launch import Triton
from .model_watch import ModelWatch
from .stages import POLL_S, StageWatch

_CANARY_S = 1.0
_POLLS_PER_POOL_CHECK = 20


class _DrainRequested(BaseException):
    """SIGTERM was received; not an Exception, so that no handler mistakes it for a failure."""


def stop_on_sigterm() -> None:
    """Make SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def watch(
    triton: Triton,
    drain_s: float,
    report: Callable[[str], None],
    announce: Callable[[], None],
) -> None:
    """Return when the server has ended; the first SIGTERM drains it.

    Args:
        report: called with messages for the operator.
        announce: called when all models have answered and SIGTERM starts a drain.

    Raises:
        Unhealthy: a stage is dead, hangs or fails.
        KeyboardInterrupt: a second SIGTERM, or Ctrl-C.
    """
    try:
        signal.signal(signal.SIGTERM, _request_drain)
        models = ModelWatch(triton, report)
        models.require_answers()
        stages = StageWatch(triton.process.pid, triton.heartbeats)
        announce()
        canaries = _repeating("canary", _CANARY_S, models.look, models.close)
        with _admission(triton, models), canaries:
            _watch_stages(triton, stages, models)
    except _DrainRequested:
        report(f"draining: new streams are refused, open ones have up to {drain_s:g} s")
        if triton.drain(drain_s):
            report("drained: all streams have ended")
        else:
            report(f"streams were still open after {drain_s:g} s, and are cut off")


def _watch_stages(triton: Triton, stages: StageWatch, models: ModelWatch) -> None:
    polls = 0
    while triton.process.wait(POLL_S) is None:
        problem = stages.look() or models.failure
        if problem is not None and triton.process.exit_code is None:
            # Kill it at once: a process that hangs would not end by itself, and a new server needs
            # the port.
            triton.process.kill()
            raise Unhealthy(
                f"{problem}; the server ends, so that a new one can take its place (its log: "
                f"{triton.log_path})"
            )
        polls += 1
        if polls % _POLLS_PER_POOL_CHECK == 0:
            triton.check_state_pool()
            triton.process.hide_shared_memory()  # that of models loaded since then


@contextmanager
def _repeating(
    name: str, interval_s: float, work: Callable[[], None], end: Callable[[], None] = lambda: None
) -> Generator[None]:
    """Call `work` repeatedly from a thread for the length of the block, then `end` once."""
    stopping = threading.Event()

    def repeat() -> None:
        while not stopping.wait(interval_s):
            try:
                work()
            except Exception:  # whatever fails, the next attempt may succeed
                print(f"{name} failed, trying again:", file=sys.stderr)
                traceback.print_exc()
        end()

    threading.Thread(target=repeat, name=name, daemon=True).start()
    try:
        yield
    finally:
        stopping.set()


@contextmanager
def _admission(triton: Triton, models: ModelWatch) -> Generator[None]:
    if triton.chunk_share is None:
        yield
        return
    admission = Admission(
        triton.endpoints.triton_metrics_url,
        triton.heartbeats,
        triton.chunk_share,
        triton.metrics.observe_limit,
    )

    def measure() -> None:
        admission.serve(models.ensembles)
        admission.measure()

    with _repeating("admission", INTERVAL_S, measure):
        yield


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _request_drain(signum: int, frame: FrameType | None) -> None:
    stop_on_sigterm()
    raise _DrainRequested
