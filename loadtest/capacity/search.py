"""The largest count that is carried: double until a level fails, halve the gap, then hold it long.

The server may also be no better than the first level; then the search halves downwards. A level at
which the generator was late says nothing about the server: it is held once more, and if it is late
again the search goes no higher, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.report_line import verdict_of
from loadtest.result import Level, Verdict

FIRST_STREAMS = 16
RESOLUTION = 0.05
"""Stop when the gap between pass and fail is this share of the count that passes."""

Hold = Callable[[int, bool], Level]
"""Streams, and whether to hold them long."""


@dataclass
class Found:
    """What a search has found."""

    streams: int = 0
    """The largest count that passed; 0 if none did."""
    wall: Level | None = None
    """The level that was not carried, or not held honestly, next above it."""
    levels: list[Level] = field(default_factory=list[Level])

    @property
    def verdict(self) -> Verdict:
        """`invalid` if the generator, not the server, stopped the search."""
        if self.wall is not None and not self.wall.valid:
            return "invalid"
        return "pass" if self.streams else "fail"


def search(
    hold: Hold,
    limit: int,
    first: int = FIRST_STREAMS,
    resolution: float = RESOLUTION,
    long: bool = True,
) -> Found:
    """Find the largest count up to ``limit`` that passes, to within ``resolution``.

    Args:
        long: hold the answer once more, long, and step down until that passes.
    """
    found = Found()
    streams = min(first, limit)
    while streams:
        level = _hold_honestly(hold, streams, False, found)
        _take(level, found)
        streams = _next(found, streams, limit, resolution)
    while long and found.streams:
        candidate = found.streams
        level = _hold_honestly(hold, candidate, True, found)
        if verdict_of(level) == "pass":
            break
        found.wall = level
        found.streams = candidate - max(1, round(resolution * candidate))
    return found


def _hold_honestly(hold: Hold, streams: int, final: bool, found: Found) -> Level:
    for _ in range(2):
        level = hold(streams, final)
        found.levels.append(level)
        if level.valid:
            break
    return found.levels[-1]


def _take(level: Level, found: Found) -> None:
    if verdict_of(level) == "pass":
        found.streams = level.streams
    else:
        found.wall = level


def _next(found: Found, streams: int, limit: int, resolution: float) -> int:
    """The count to hold next; 0 if the gap is small enough."""
    if found.wall is None:
        return 0 if streams == limit else min(2 * streams, limit)
    if not found.streams:
        return found.wall.streams // 2
    gap = found.wall.streams - found.streams
    if gap <= max(1, resolution * found.streams):
        return 0
    return found.streams + gap // 2
