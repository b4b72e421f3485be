"""Search for the capacity: double until a level fails, halve the gap, then hold the result long.

If the server does not even sustain the first level, the search halves downwards. A level in which
the load generator was late says nothing about the server: it is held once more, and if the
generator is late again the search goes no higher and its verdict is `invalid`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.result.document import Level, Verdict

FIRST_STREAMS = 16
RESOLUTION = 0.05
"""The search stops when the gap between pass and fail is this share of the streams that pass."""

Hold = Callable[[int, bool], Level]
"""Takes the number of streams, and `True` for the final, long hold."""


@dataclass
class SearchResult:
    """The capacity that a search has found, and the levels that it has held."""

    streams: int = 0
    """The largest number of streams that passed; 0 if none did."""
    limit: Level | None = None
    """The next level above it, which was not sustained or was invalid."""
    levels: list[Level] = field(default_factory=list[Level])

    @property
    def verdict(self) -> Verdict:
        """Return the verdict; `invalid` if the load generator, not the server, was the limit."""
        if self.limit is not None and not self.limit.valid:
            return "invalid"
        return "pass" if self.streams else "fail"


def search(
    hold: Hold,
    max_streams: int,
    first: int = FIRST_STREAMS,
    resolution: float = RESOLUTION,
    long: bool = True,
) -> SearchResult:
    """Find the largest number of streams up to `max_streams` that passes, within `resolution`.

    Args:
        hold: Holds a level.
        max_streams: Largest number to try.
        first: Number of streams to begin with.
        resolution: Gap at which to stop, as a share of the streams that pass.
        long: Hold the result once more, long, and step down until that passes.
    """
    found = SearchResult()
    streams = min(first, max_streams)
    while streams:
        level = _hold_validly(hold, streams, False, found)
        _record(level, found)
        streams = _next(found, streams, max_streams, resolution)
    while long and found.streams:
        candidate = found.streams
        level = _hold_validly(hold, candidate, True, found)
        if level.verdict == "pass":
            break
        found.limit = level
        found.streams = candidate - max(1, round(resolution * candidate))
    return found


def _hold_validly(hold: Hold, streams: int, final: bool, found: SearchResult) -> Level:
    """Hold a level, and once more if it is invalid."""
    for _ in range(2):
        level = hold(streams, final)
        found.levels.append(level)
        if level.valid:
            break
    return found.levels[-1]


def _record(level: Level, found: SearchResult) -> None:
    if level.verdict == "pass":
        found.streams = level.streams
    else:
        found.limit = level


def _next(found: SearchResult, streams: int, max_streams: int, resolution: float) -> int:
    """Return the number of streams to hold next; 0 if the gap is small enough."""
    if found.limit is None:
        return 0 if streams == max_streams else min(2 * streams, max_streams)
    if not found.streams:
        return found.limit.streams // 2
    gap = found.limit.streams - found.streams
    if gap <= max(1, resolution * found.streams):
        return 0
    return found.streams + gap // 2
