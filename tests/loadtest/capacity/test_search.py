"""The search finds the capacity of a service whose capacity is known."""

from __future__ import annotations

import pytest
from levels import level

from loadtest.result import Level
from loadtest.search import RESOLUTION, Hold, search


def carries(capacity: int) -> Hold:
    return lambda streams, final: level(streams, 50 if streams <= capacity else 900)


@pytest.mark.parametrize("capacity", [1, 3, 15, 16, 17, 40, 100, 130, 511, 512])
def test_finds_the_capacity_within_its_resolution(capacity: int) -> None:
    found = search(carries(capacity), limit=512)
    assert found.verdict == "pass"
    assert capacity * (1 - RESOLUTION) - 1 <= found.streams <= capacity
    assert len(found.levels) < 16
    assert (found.wall is None) == (capacity == 512)


def test_the_answer_is_held_long_and_nothing_else_is() -> None:
    held: list[tuple[int, bool]] = []

    def hold(streams: int, final: bool) -> Level:
        held.append((streams, final))
        return carries(40)(streams, final)

    found = search(hold, limit=512)
    assert [streams for streams, final in held if final] == [found.streams]
    assert held[-1] == (found.streams, True)


def test_steps_down_until_the_long_hold_passes() -> None:
    def hold(streams: int, final: bool) -> Level:
        return carries(80 if final else 100)(streams, final)

    found = search(hold, limit=512)
    assert 76 <= found.streams <= 80
    assert found.wall is not None
    assert found.wall.streams > found.streams


def test_a_server_that_is_late_from_the_start_has_no_capacity() -> None:
    found = search(carries(0), limit=512)
    assert (found.streams, found.verdict) == (0, "fail")


def test_never_asks_for_more_than_the_limit() -> None:
    found = search(carries(10_000), limit=100)
    assert found.streams == 100
    assert max(level.streams for level in found.levels) == 100


def test_a_late_generator_ends_the_search_as_invalid() -> None:
    def hold(streams: int, final: bool) -> Level:
        return level(streams, 50, late_ms=0.0 if streams <= 100 else 30.0)

    found = search(hold, limit=512)
    assert found.verdict == "invalid"
    assert 95 <= found.streams <= 100


def test_a_generator_that_was_late_once_is_asked_again() -> None:
    asked: list[int] = []

    def hold(streams: int, final: bool) -> Level:
        asked.append(streams)
        return level(streams, 50 if streams <= 40 else 900, late_ms=30.0 * (len(asked) == 1))

    found = search(hold, limit=512)
    assert asked[:2] == [16, 16]
    assert (found.verdict, found.streams) == ("pass", 40)
