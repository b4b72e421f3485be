"""Attempts at a request that was lost with its connection.

gRPC reports that a connection has ended before it stops using it. Requests sent in between, which
takes milliseconds or, with a full send buffer, seconds, are lost in the same way.
"""

from __future__ import annotations

import time

from ._failures import RpcFailure, is_broken_connection

_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 1.0


class Attempts:
    """The attempts at one request, all of which begin within `within_s` seconds."""

    def __init__(self, within_s: float) -> None:
        self._deadline_s = time.monotonic() + within_s
        self._delay_s = _FIRST_DELAY_S

    def delay_s(self, outcome: RpcFailure) -> float | None:
        """Return the delay before the next attempt, or None if there should be none."""
        delay_s = self._delay_s
        if not is_broken_connection(outcome) or time.monotonic() + delay_s > self._deadline_s:
            return None
        self._delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        return delay_s
