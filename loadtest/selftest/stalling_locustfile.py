"""The locustfile with streams that stall for 300 ms per second, for the self-test."""

from __future__ import annotations

import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore

from loadtest.live.streams import StreamProcess
from loadtest.locustfile import LiveUser

__all__ = ["LiveUser"]

StreamProcess.module = "loadtest.selftest.stalling_streams"
