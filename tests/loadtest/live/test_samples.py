"""Samples keep their values on the way from the workers to the check."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from loadtest.live.samples import FinishedStream, SampleCollector, SampleRecorder, Window

STREAM = FinishedStream(script=3, chunks=2, complete=True, tokens=(5, 70_000), text="é one")


def recorded(level: int = 1) -> SampleRecorder:
    recorder = SampleRecorder()
    recorder.start(Window(level, warm_up_s=0.0, hold_s=10.0))
    now_s = time.monotonic()
    recorder.record_chunk(7, now_s, 41.25, 0.5)
    recorder.record_chunk(8, now_s, 43.0, math.nan)
    recorder.record_final(now_s, 99.0)
    recorder.record_stream(STREAM)
    recorder.record_failure("ServerBusy", "all taken")
    return recorder


def test_every_sample_arrives() -> None:
    collector = SampleCollector(1)
    collector.add("a", recorded().take_batch(done=True))
    samples = collector.samples(["a"])
    assert samples.user.tolist() == [7, 8]
    assert samples.latency_ms.tolist() == [41.25, 43.0]
    assert samples.lateness_ms[0] == 0.5
    assert np.isnan(samples.lateness_ms[1])
    assert samples.final_ms.tolist() == [99.0]
    assert samples.finished == [STREAM]
    assert samples.failures == {"ServerBusy": 1}
    assert samples.messages == {"ServerBusy": "all taken"}
    assert samples.missing == []


def test_users_of_two_workers_are_not_confused() -> None:
    collector = SampleCollector(1)
    for process in ("a", "b"):
        collector.add(process, recorded().take_batch(done=True))
    samples = collector.samples(["a", "b"])
    assert len(np.unique(samples.user)) == 4
    assert samples.failures == {"ServerBusy": 2}
    assert len(samples.cpu_s) == 2


def test_batches_of_another_level_are_dropped() -> None:
    collector = SampleCollector(2)
    collector.add("a", recorded(level=1).take_batch(done=True))
    assert collector.samples(["a"]).missing == ["a"]


def test_only_the_window_is_recorded() -> None:
    recorder = SampleRecorder()
    recorder.start(Window(1, warm_up_s=5.0, hold_s=10.0))
    begin_s = recorder._begin_s  # pyright: ignore[reportPrivateUsage]
    for due_s in (begin_s - 1.0, begin_s + 1.0, begin_s + 11.0):
        recorder.record_chunk(1, due_s, 50.0, 0.0)
        recorder.record_final(due_s, 50.0)
    collector = SampleCollector(1)
    collector.add("a", recorder.take_batch(done=True))
    samples = collector.samples(["a"])
    assert len(samples.latency_ms) == len(samples.final_ms) == 1
    assert samples.due_s[0] == pytest.approx(1.0)


def test_a_new_window_drops_the_old_samples() -> None:
    recorder = recorded()
    recorder.start(Window(2, warm_up_s=0.0, hold_s=10.0))
    collector = SampleCollector(2)
    collector.add("a", recorder.take_batch(done=True))
    assert not len(collector.samples(["a"]).latency_ms)
