"""Samples keep their values on the way from the speakers to the judge."""

from __future__ import annotations

import math
import time

import numpy as np

from loadtest.samples import Gathering, Recorder, Spoken, Window

SPOKEN = Spoken(script=3, chunks=2, complete=True, tokens=(5, 70_000), text="é one")


def recorded(level: int = 1) -> Recorder:
    recorder = Recorder()
    recorder.begin(Window(level, warm_up_s=0.0, hold_s=10.0))
    now_s = time.monotonic()
    recorder.chunk(7, now_s, 41.25, 0.5)
    recorder.chunk(8, now_s, 43.0, math.nan)
    recorder.final(now_s, 99.0)
    recorder.spoken(SPOKEN)
    recorder.failure("ServerBusy", "all taken")
    return recorder


def test_every_sample_arrives() -> None:
    gathering = Gathering(1)
    gathering.add("a", recorded().take(done=True))
    samples = gathering.samples(["a"])
    assert samples.speaker.tolist() == [7, 8]
    assert samples.latency_ms.tolist() == [41.25, 43.0]
    assert samples.lateness_ms[0] == 0.5
    assert np.isnan(samples.lateness_ms[1])
    assert samples.final_ms.tolist() == [99.0]
    assert samples.spoken == [SPOKEN]
    assert samples.failures == {"ServerBusy": 1}
    assert samples.messages == {"ServerBusy": "all taken"}
    assert samples.missing == []


def test_speakers_of_two_processes_are_not_confused() -> None:
    gathering = Gathering(1)
    for process in ("a", "b"):
        gathering.add(process, recorded().take(done=True))
    samples = gathering.samples(["a", "b"])
    assert len(np.unique(samples.speaker)) == 4
    assert samples.failures == {"ServerBusy": 2}
    assert len(samples.cpu_s) == 2


def test_batches_of_another_level_are_dropped() -> None:
    gathering = Gathering(2)
    gathering.add("a", recorded(level=1).take(done=True))
    assert gathering.samples(["a"]).missing == ["a"]


def test_only_the_window_is_recorded() -> None:
    recorder = Recorder()
    recorder.begin(Window(1, warm_up_s=5.0, hold_s=10.0))
    begin_s = time.monotonic() + 5.0
    for due_s in (begin_s - 1.0, begin_s + 1.0, begin_s + 11.0):
        recorder.chunk(1, due_s, 50.0, 0.0)
        recorder.final(due_s, 50.0)
    gathering = Gathering(1)
    gathering.add("a", recorder.take(done=True))
    samples = gathering.samples(["a"])
    assert len(samples.latency_ms) == len(samples.final_ms) == 1
    assert abs(samples.due_s[0] - 1.0) < 0.1


def test_a_new_window_forgets_the_old_one() -> None:
    recorder = recorded()
    recorder.begin(Window(2, warm_up_s=0.0, hold_s=10.0))
    gathering = Gathering(2)
    gathering.add("a", recorder.take(done=True))
    assert not len(gathering.samples(["a"]).latency_ms)
