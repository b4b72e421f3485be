"""A stream whose replies take longer than its chunks says how late it is."""

from __future__ import annotations

import logging
import threading
import time

import earshot
import pytest
from earshot._lag import Lag

from tests.support.fake_recognizer import FIRST, PARAMETERS, RATE_HZ, chunk, noise
from tests.support.fake_triton import fake_triton

CHUNK_MS = 80


def run(lag: Lag, chunks: int, reply_s: float, *, began_s: float = 0.0, audio_s: float = 0.0):
    """Send chunks of live audio, each when it is spoken or when the last one is answered."""
    now_s, lags = began_s, []
    for index in range(1, chunks + 1):
        spoken_s = began_s + index * CHUNK_MS / 1000
        sent_s = max(now_s, spoken_s)
        now_s = sent_s + reply_s
        lags.append(lag.answered(sent_s, now_s, audio_s + index * CHUNK_MS / 1000))
    return now_s, lags


def test_a_slow_path_adds_up(caplog: pytest.LogCaptureFixture) -> None:
    _, lags = run(Lag(CHUNK_MS), 200, reply_s=0.1)
    assert lags[-1] == pytest.approx(200 * 0.02, abs=0.01)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2  # at one second, and at twice as much
    assert "the last chunk of 80 ms was answered after 100 ms" in warnings[0]


def test_a_fast_path_has_none(caplog: pytest.LogCaptureFixture) -> None:
    _, lags = run(Lag(CHUNK_MS), 1000, reply_s=0.07)
    assert not any(lags)
    assert not caplog.records


def test_it_ends_when_the_caller_waits_for_audio_again() -> None:
    lag = Lag(CHUNK_MS)
    now_s, lags = run(lag, 50, reply_s=0.2)
    assert lags[-1] > 5
    _, lags = run(lag, 10, reply_s=0.01, began_s=now_s + 1, audio_s=4)
    assert not any(lags)


def test_audio_that_comes_faster_than_speech_is_never_late() -> None:
    lag = Lag(CHUNK_MS)
    assert not any(lag.answered(index, index + 1.0, 60.0) for index in range(100))


def test_the_result_of_a_chunk_has_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "earshot")

    def answer_late() -> None:
        fake.arrived.acquire()
        time.sleep(1.2)
        fake.answer.set()

    with (
        fake_triton(PARAMETERS) as fake,
        earshot.connect(fake.url) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        answering = threading.Thread(target=answer_late)
        answering.start()
        began_s = time.monotonic()
        [first] = stream.send(noise(FIRST))
        answering.join()
        assert 1.0 < first.lag_s < time.monotonic() - began_s
        assert f"the text is {first.lag_s:.1f} s behind" in caplog.text
        time.sleep(0.1)
        [second] = stream.send(chunk())
        # The first lag has ended: only the second reply counts.
        assert second.lag_s < second.received_s - second.sent_s
