"""Search for the capacity: grow until a level fails, halve the gap, then hold the result long.

If the server does not even sustain the first level, the search shrinks by the same factor. A level
in which the load generator was late says nothing about the server: it is held once more, and if the
generator is late again the search goes no higher and its verdict is `invalid`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.result.document import Level, Verdict

Hold = Callable[[int, bool], Level]
"""Takes the number of streams, and `True` for the final, long hold."""


@dataclass(frozen=True)
class SearchOptions:
    """Levels that a search tries."""

    first_streams: int = 16
    growth: float = 2.0
    """Factor between levels until one passes and one fails. A small factor does not overload a
    server whose capacity is roughly known."""
    resolution: float = 0.05
    """Gap between pass and fail at which to stop, as a share of the streams that pass."""
    long: bool = True
    """Hold the result once more, long, and step down until that passes."""


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


def search(hold: Hold, max_streams: int, options: SearchOptions) -> SearchResult:
    """Find the largest number of streams up to `max_streams` that passes."""
    found = SearchResult()
    streams = min(options.first_streams, max_streams)
    while streams:
        level = _hold_validly(hold, streams, False, found)
        _record(level, found)
        streams = _next(found, streams, max_streams, options)
    while options.long and found.streams:
        candidate = found.streams
        level = _hold_validly(hold, candidate, True, found)
        if level.verdict == "pass":
            break
        found.limit = level
        found.streams = candidate - max(1, round(options.resolution * candidate))
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


def _next(found: SearchResult, streams: int, max_streams: int, options: SearchOptions) -> int:
    """Return the number of streams to hold next; 0 if the gap is small enough."""
    if found.limit is None:
        grown = math.ceil(options.growth * streams)
        return 0 if streams == max_streams else min(grown, max_streams)
    if not found.streams:
        return int(found.limit.streams / options.growth)
    gap = found.limit.streams - found.streams
    if gap <= max(1, options.resolution * found.streams):
        return 0
    return found.streams + gap // 2
