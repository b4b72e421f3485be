"""A chunk that is never answered counts, with at least the time for which it waited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import earshot
import grpc
import numpy as np
import pytest

from loadtest.audio.scripts import Script
from loadtest.live.check import latency_of
from loadtest.live.exchange import Service
from loadtest.live.player import UNANSWERED_MS, StreamPlayer
from loadtest.live.samples import LevelSamples, SampleCollector, SampleRecorder, Window
from tests.support import fake_recognizer
from tests.support.fake_triton import FakeTriton, fake_triton
from tests.support.sample_levels import checked, samples

HURRIED = earshot.Timeouts(queue_s=0.1, chunk_s=0.1)


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    """Describes itself, and answers no chunk."""
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        yield fake


def play(fake: FakeTriton, timeouts: earshot.Timeouts) -> LevelSamples:
    script = Script(np.zeros(32000, np.float32), None)
    recorder = SampleRecorder()
    recorder.start(Window(1, warm_up_s=0.0, hold_s=60.0))
    service = Service(fake.url, None, [script], timeouts)
    StreamPlayer(1, service, recorder).play()
    service.close()
    collector = SampleCollector(1)
    collector.add("a", recorder.take_batch(done=True))
    return collector.samples(["a"])


def test_a_chunk_without_an_answer_is_the_slowest_of_all(fake: FakeTriton) -> None:
    got = play(fake, HURRIED)
    assert got.failures == {"ChunkTimeout": 1}
    assert got.unanswered == 1
    assert got.latency_ms.tolist() == [UNANSWERED_MS]
    assert latency_of(got.latency_ms).p99_ms == UNANSWERED_MS


def test_a_refused_stream_has_no_latency(fake: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeTriton, request: Any, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "all are taken")

    monkeypatch.setattr(FakeTriton, "ModelInfer", refuse)
    with fake_triton(fake_recognizer.PARAMETERS) as refusing:
        got = play(refusing, fake_recognizer.PATIENT)
    assert got.failures == {"ServerBusy": 1}
    assert (got.unanswered, len(got.latency_ms)) == (0, 0)


def test_a_level_names_the_chunks_that_were_never_answered() -> None:
    level = checked(samples(unanswered=29))
    assert level.unanswered_chunks == 29
    assert not level.passes
    assert level.reasons[0].startswith("29 chunks were never answered")
