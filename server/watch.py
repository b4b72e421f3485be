"""Watch a running server until it is asked to stop, and drain it then."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .launch import Triton

_WATCH_S = 5.0


class _DrainRequested(BaseException):
    """SIGTERM has come; not an Exception, so that no other handler takes it for a failure."""


def stop_on_sigterm() -> None:
    """Make SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def watch(triton: Triton, drain_s: float, report: Callable[[str], None]) -> None:
    """Return when the server has ended; the first SIGTERM drains it.

    Raises:
        KeyboardInterrupt: a second SIGTERM, or Ctrl-C.
    """
    signal.signal(signal.SIGTERM, _request_drain)
    try:
        while triton.process.wait(_WATCH_S) is None:
            triton.check_state_pool()
    except _DrainRequested:
        report(f"draining: new streams are refused, open ones have up to {drain_s:g} s")
        if triton.drain(drain_s):
            report("drained: all streams have ended")
        else:
            report(f"streams were still open after {drain_s:g} s, and are cut")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _request_drain(signum: int, frame: FrameType | None) -> None:
    stop_on_sigterm()
    raise _DrainRequested
