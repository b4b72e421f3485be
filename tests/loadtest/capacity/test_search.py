"""The search finds the capacity of a simulated service."""

from __future__ import annotations

import pytest

from loadtest.capacity.search import Budget, Hold, SearchOptions, search
from loadtest.result.document import Level
from tests.support.sample_levels import level

OPTIONS = SearchOptions()


def sustains(capacity: int) -> Hold:
    return lambda streams, final: level(streams, 50 if streams <= capacity else 900)


@pytest.mark.parametrize("capacity", [1, 3, 15, 16, 17, 40, 100, 130, 511, 512])
def test_finds_the_capacity_within_its_resolution(capacity: int) -> None:
    found = search(sustains(capacity), 512, OPTIONS)
    assert found.verdict == "pass"
    assert capacity * (1 - OPTIONS.resolution) - 1 <= found.streams <= capacity
    assert len(found.levels) < 16
    assert (found.limit is None) == (capacity == 512)


def test_only_the_result_is_held_long() -> None:
    held: list[tuple[int, bool]] = []

    def hold(streams: int, final: bool) -> Level:
        held.append((streams, final))
        return sustains(40)(streams, final)

    found = search(hold, 512, OPTIONS)
    assert [streams for streams, final in held if final] == [found.streams]
    assert held[-1] == (found.streams, True)


def test_steps_down_until_the_long_hold_passes() -> None:
    def hold(streams: int, final: bool) -> Level:
        return sustains(80 if final else 100)(streams, final)

    found = search(hold, 512, OPTIONS)
    assert 76 <= found.streams <= 80
    assert found.limit is not None
    assert found.limit.streams > found.streams


def test_a_server_that_fails_from_the_start_has_no_capacity() -> None:
    found = search(sustains(0), 512, OPTIONS)
    assert (found.streams, found.verdict) == (0, "fail")


def test_tries_no_more_than_max_streams() -> None:
    found = search(sustains(10_000), 100, OPTIONS)
    assert found.streams == 100
    assert max(level.streams for level in found.levels) == 100


def test_a_late_generator_ends_the_search_as_invalid() -> None:
    def hold(streams: int, final: bool) -> Level:
        return level(streams, 50, late_ms=0.0 if streams <= 100 else 30.0)

    found = search(hold, 512, OPTIONS)
    assert found.verdict == "invalid"
    assert 95 <= found.streams <= 100


def test_an_invalid_level_is_held_again() -> None:
    held_streams: list[int] = []

    def hold(streams: int, final: bool) -> Level:
        held_streams.append(streams)
        return level(streams, 50 if streams <= 40 else 900, late_ms=30.0 * (len(held_streams) == 1))

    found = search(hold, 512, OPTIONS)
    assert held_streams[:2] == [16, 16]
    assert (found.verdict, found.streams) == ("pass", 40)


def test_a_small_growth_never_overloads_the_service_by_more() -> None:
    found = search(sustains(100), 512, SearchOptions(first_streams=40, growth=1.4))
    assert 95 <= found.streams <= 100
    assert max(level.streams for level in found.levels) <= 1.4 * 100 + 1


class Clock:
    """A simulated service whose short holds take 10 s and whose final holds take 60 s."""

    def __init__(self, capacity: int) -> None:
        self.now_s = 0.0
        self.held: list[tuple[int, bool]] = []
        self._capacity = capacity

    def hold(self, streams: int, final: bool) -> Level:
        self.now_s += 60 if final else 10
        self.held.append((streams, final))
        return sustains(self._capacity)(streams, final)

    def budget(self, seconds: float) -> Budget:
        return Budget(seconds, level_s=10, final_s=60, now=lambda: self.now_s)


def test_when_time_is_short_the_search_goes_on_to_the_final_hold() -> None:
    clock = Clock(capacity=1000)
    found = search(clock.hold, 512, OPTIONS, clock.budget(95))
    assert clock.held == [(16, False), (32, False), (64, False), (64, True)]
    assert (found.verdict, found.streams, found.coarse) == ("pass", 64, True)


def test_enough_time_changes_nothing() -> None:
    clock = Clock(capacity=40)
    found = search(clock.hold, 512, OPTIONS, clock.budget(1000))
    assert (found.verdict, found.coarse) == ("pass", False)
    assert found.streams == search(sustains(40), 512, OPTIONS).streams


def test_without_time_for_any_level_the_search_does_not_end() -> None:
    clock = Clock(capacity=1000)
    found = search(clock.hold, 512, OPTIONS, clock.budget(65))
    assert (found.verdict, found.ended, found.streams) == ("invalid", False, 0)
    assert not clock.held


def test_without_time_for_a_second_final_hold_the_search_does_not_end() -> None:
    clock = Clock(capacity=1000)

    def hold(streams: int, final: bool) -> Level:
        clock.hold(streams, final)
        return level(streams, 900 if final else 50)

    found = search(hold, 512, OPTIONS, clock.budget(95))
    assert (found.verdict, found.ended) == ("invalid", False)
    assert found.streams == 32, "64 failed the long hold, and 32 passed a short one"
