"""The quick search finds the capacity of a service whose capacity is known."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest import quick
from loadtest.pacing import Level

SPEECH = np.zeros(16_000, dtype=np.float32)


def level(streams: int, latency_ms: float) -> Level:
    return Level(streams, 5.0, 320, latencies_ms=[latency_ms] * 100, lateness_ms=[0.0] * 100)


@pytest.mark.parametrize("capacity", [16, 17, 40, 100, 130, 511, 512])
def test_finds_the_capacity_within_its_resolution(
    capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(url: str, speech: np.ndarray, streams: int, hold_s: float) -> Level:
        return level(streams, 50 if streams <= capacity else 900)

    monkeypatch.setattr(quick, "hold", hold)
    held: list[Level] = []
    best = quick.largest_count("host:1", SPEECH, 512, held.append)
    assert best is not None
    assert capacity * (1 - quick.RESOLUTION) <= best.streams <= capacity
    assert len(held) < 14


def test_a_server_that_is_late_from_the_start_has_no_capacity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quick, "hold", lambda url, speech, streams, hold_s: level(streams, 900))
    assert quick.largest_count("host:1", SPEECH, 512, lambda level: None) is None


def test_never_asks_for_more_than_the_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "hold", lambda url, speech, streams, hold_s: level(streams, 1))
    best = quick.largest_count("host:1", SPEECH, 100, lambda level: None)
    assert best is not None
    assert best.streams == 100


def test_a_failed_stream_fails_the_level() -> None:
    passing = level(10, 50)
    assert passing.passes
    passing.failures.append("StreamLost: gone")
    assert not passing.passes


def test_a_late_generator_makes_the_level_invalid() -> None:
    late = level(10, 50)
    late.lateness_ms = [0.0] * 98 + [11.0] * 2
    assert not late.valid
    late.lateness_ms = [0.0] * 99 + [11.0]
    assert late.valid


def test_a_level_without_any_answer_does_not_pass() -> None:
    assert not Level(1, 5.0, 320).passes
