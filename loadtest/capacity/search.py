"""Search for the capacity: grow until a level fails, halve the gap, then hold the result longer.

A time budget ends the first part early, so that the long hold still fits.

If the server does not even sustain the first level, the search shrinks by the same factor. A level
in which the load generator was late says nothing about the server: it is held once more, and if the
generator is late again, the search goes no higher and its verdict is `invalid`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.result.document import Level, Verdict

Hold = Callable[[int, bool], Level]
"""Called with the number of streams, and `True` for the final, long hold."""


@dataclass(frozen=True)
class SearchOptions:
    """The levels that a search tries."""

    first_streams: int = 16
    growth: float = 2.0
    """Factor between levels until one passes and one fails. If the capacity is roughly known, a
    small factor avoids overloading the server."""
    resolution: float = 0.05
    """Gap between pass and fail at which to stop, as a share of the streams that pass."""
    long: bool = True
    """True to hold the result once more, for longer, and to step down until that passes."""


@dataclass(frozen=True)
class Budget:
    """The time for a search; by default unlimited."""

    deadline_s: float = math.inf
    """Monotonic time at which the search has to end."""
    level_s: float = 0.0
    """Time that a short level takes."""
    final_s: float = 0.0
    """Time that the final, long hold takes."""
    now: Callable[[], float] = time.monotonic

    def allows_level(self) -> bool:
        """Return `True` if there is time for a short level and the final hold."""
        return self.now() + self.level_s + self.final_s <= self.deadline_s

    def allows_final(self) -> bool:
        """Return `True` if there is time for the final hold."""
        return self.now() + self.final_s <= self.deadline_s


@dataclass
class SearchResult:
    """The capacity found by a search, and the levels that it held."""

    streams: int = 0
    """The largest number of streams that passed; 0 if none did."""
    limit: Level | None = None
    """The next level above the capacity, which was not sustained or was invalid."""
    levels: list[Level] = field(default_factory=list[Level])
    coarse: bool = False
    """`True` if, for lack of time, the gap to the next level is larger than the resolution."""
    ended: bool = True
    """`False` if time was too short for any result."""

    @property
    def verdict(self) -> Verdict:
        """Return the verdict; `invalid` if the server's limit was not found."""
        if not self.ended:
            return "invalid"
        if self.limit is not None and not self.limit.valid:
            return "invalid"
        return "pass" if self.streams else "fail"


def search(
    hold: Hold, max_streams: int, options: SearchOptions, budget: Budget | None = None
) -> SearchResult:
    """Find the largest number of streams up to `max_streams` that passes.

    Args:
        hold: Holds a level.
        max_streams: Most streams to try.
        options: Levels to try.
        budget: Time for the search; `None`: unlimited.
    """
    budget = budget or Budget()
    found = SearchResult()
    _search_short(hold, max_streams, options, budget, found)
    if options.long and found.streams:
        _hold_long(hold, options, budget, found)
    return found


def _search_short(
    hold: Hold, max_streams: int, options: SearchOptions, budget: Budget, found: SearchResult
) -> None:
    """Narrow down the capacity with short levels, as long as the budget allows."""
    streams = min(options.first_streams, max_streams)
    while streams:
        if not budget.allows_level():
            found.coarse = True
            found.ended = found.streams > 0
            break
        level = _hold_validly(hold, streams, False, found)
        _record(level, found)
        streams = _next(found, streams, max_streams, options)


def _hold_long(hold: Hold, options: SearchOptions, budget: Budget, found: SearchResult) -> None:
    """Hold the result for longer, and step down until that passes."""
    while found.streams:
        if not budget.allows_final():
            found.ended = False
            found.streams = _largest_short(found)
            break
        candidate = found.streams
        level = _hold_validly(hold, candidate, True, found)
        if level.verdict == "pass":
            break
        found.limit = level
        found.streams = candidate - max(1, round(options.resolution * candidate))


def _largest_short(found: SearchResult) -> int:
    """Return the largest number of streams below the limit that passed, even if only briefly."""
    below = found.limit.streams if found.limit else math.inf
    passed = [each.streams for each in found.levels if each.verdict == "pass"]
    return max((streams for streams in passed if streams < below), default=0)


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
