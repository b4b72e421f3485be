"""Run the locustfile with a load generator that stalls for 300 ms per second, for the self-test."""

from __future__ import annotations

import loadtest.live.gevent_first  # isort: skip  # noqa: F401  # pyright: ignore

from typing import Any

import gevent
from gevent import monkey
from locust import events

from loadtest.locustfile import LiveUser

STALL_S = 0.3
__all__ = ["LiveUser"]


@events.init.add_listener
def _stall(**_: Any) -> None:
    gevent.spawn(_stall_forever)


def _stall_forever() -> None:
    block = monkey.get_original("time", "sleep")
    while True:
        gevent.sleep(1.0 - STALL_S)
        block(STALL_S)
