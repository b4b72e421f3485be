"""A quick look at capacity: double the streams until text comes late, then halve the gap.

Minutes are not spent here; for a figure to plan with, hold the count for longer. Where the
generator shares the cores with the server it is late before the server is: the count is then a
lower bound, never too high, because a late send counts as latency.
"""

from __future__ import annotations

from collections.abc import Callable

from loadtest.pacing import Level, hold
from loadtest.speech import Samples

HOLD_S = 5.0
FIRST_STREAMS = 16
RESOLUTION = 0.15
"""Stop when the gap between pass and fail is this share of the count that passes."""


def largest_count(
    url: str, speech: Samples, limit: int, report: Callable[[Level], None]
) -> Level | None:
    """The level with most streams that passes, up to ``limit``; ``None`` if not even the first.

    Args:
        report: is told each level when it has been held.
    """
    best: Level | None = None
    streams, failed = min(FIRST_STREAMS, limit), limit + 1
    while best is None or streams > best.streams:
        level = hold(url, speech, streams, HOLD_S)
        report(level)
        if level.passes:
            best = level
        else:
            failed = streams
        if best is None:
            return None
        if failed > limit and streams < limit:
            streams = min(2 * streams, limit)
        elif failed - best.streams <= RESOLUTION * best.streams:
            return best
        else:
            streams = (best.streams + failed) // 2
    return best
