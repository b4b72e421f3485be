"""The search finds the capacity of a simulated service."""

from __future__ import annotations

import pytest

from loadtest.capacity.search import Hold, SearchOptions, search
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
