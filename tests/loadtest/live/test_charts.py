"""Locust's statistics get batches of samples, and are those that it would make of each sample."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loadtest.live.samples import SampleRecorder, Window

LATENCIES_MS = [12.4, 12.5, 0.3, 147.2, 3432.0, 58_760.0, 12.6]


@pytest.fixture(autouse=True)
def leave_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locust would make it cooperative, for all tests of this process."""
    monkeypatch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")


def charts() -> tuple[Any, Any, list[Any]]:
    from locust.event import EventHook
    from locust.stats import RequestStats

    from loadtest.live.users import LocustCharts

    stats, failed, request = RequestStats(), list[Any](), EventHook()
    request.add_listener(lambda **fields: failed.append(fields["exception"]))
    events = SimpleNamespace(request=request)
    environment: Any = SimpleNamespace(stats=stats, events=events)
    return LocustCharts(environment), stats, failed


def test_a_batch_counts_like_its_samples_one_by_one() -> None:
    recorder = SampleRecorder()
    recorder.start(Window(1, warm_up_s=0.0, hold_s=math.inf))
    now_s = recorder._begin_s  # pyright: ignore[reportPrivateUsage]
    shown, stats, failed = charts()
    expected = charts()[1].get("chunk latency", "stream")
    for latency_ms in LATENCIES_MS:
        recorder.record_chunk(1, now_s, latency_ms, -1.0 if latency_ms > 100 else 0.25)
        expected.log(float(np.float32(latency_ms)), 0)
    recorder.record_chunk(1, now_s, 5.0, math.nan)
    expected.log(5.0, 0)
    recorder.record_final(now_s, 20.0)
    recorder.record_failure("ServerBusy", "all are taken")
    recorder.record_failure("ServerBusy", "all are taken")
    shown.show(recorder.take_batch(done=False))
    for entry in (stats.get("chunk latency", "stream"), stats.total):
        assert entry.response_times == expected.response_times
        assert entry.num_requests == expected.num_requests == sum(entry.num_reqs_per_sec.values())
        assert entry.min_response_time == expected.min_response_time
        assert entry.max_response_time == expected.max_response_time
        assert math.isclose(entry.total_response_time, expected.total_response_time, rel_tol=1e-6)
    assert stats.get("lateness", "generator").num_requests == 4
    assert stats.get("final latency", "stream").response_times == {20: 1}
    assert [str(error) for error in failed] == ["ServerBusy: all are taken"] * 2


def test_an_empty_batch_shows_nothing() -> None:
    shown, stats, failed = charts()
    shown.show(SampleRecorder().take_batch(done=True))
    assert (stats.total.num_requests, failed) == (0, [])
