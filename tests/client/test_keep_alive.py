"""With `keep_alive`, silence keeps a stream whose caller pauses; times do not count it."""

from __future__ import annotations

import asyncio
import gc
import threading

import earshot
import pytest
from earshot import StreamOptions

from tests.support import fake_recognizer
from tests.support.fake_recognizer import CHUNK_SAMPLES, FIRST, RATE_HZ, noise, texts
from tests.support.fake_triton import FakeTriton, Tokens, fake_triton
from tests.support.launcher import wait_for

KEEP = StreamOptions(keep_alive=True)
# Silence is sent after a third of this.
PARAMETERS = {**fake_recognizer.PARAMETERS, "sequence_idle_ms": "150"}
SILENT_CHUNKS = 4


def a_word_per_chunk(index: int) -> Tokens:
    return [(1, f" {index}", index)]


def wait_for_chunks(fake: FakeTriton, count: int) -> None:
    for _ in range(count):
        assert fake.arrived.acquire(timeout=60)


def check(transcript: earshot.Transcript, results: list[earshot.ChunkResult]) -> None:
    """The audio is two chunks and a half, with a pause of some silent chunks after half of it."""
    assert transcript.duration_s == pytest.approx((FIRST + 2.5 * CHUNK_SAMPLES) / RATE_HZ)
    assert [result.index for result in results] == list(range(len(results)))
    assert [word for result in results for word in result.words] == list(transcript.words)
    assert texts(transcript.words) == [str(index) for index in range(len(results))]
    starts = [word.start_ms for word in transcript.words]
    assert starts == sorted(starts)
    # The words of the silence are at the pause, and those after it where they would be without.
    assert all(start <= 80 for start in starts[: SILENT_CHUNKS + 1])
    assert 160 <= starts[-1] <= 240


def test_a_pause_is_bridged() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        fake.hear = a_word_per_chunk
        with client.stream(sample_rate_hz=RATE_HZ, options=KEEP) as stream:
            results = stream.send(noise(FIRST + CHUNK_SAMPLES // 2))
            wait_for_chunks(fake, 1 + SILENT_CHUNKS)
            results += stream.send(noise(2 * CHUNK_SAMPLES))
            results += stream.end()
        check(stream.transcript, results)
        assert len(results) >= SILENT_CHUNKS + 3


def test_a_pause_is_bridged_under_asyncio() -> None:
    async def run() -> None:
        async with earshot.connect_async(fake.url) as client:
            async with client.stream(sample_rate_hz=RATE_HZ, options=KEEP) as stream:
                results = await stream.send(noise(FIRST + CHUNK_SAMPLES // 2))
                await asyncio.to_thread(wait_for_chunks, fake, 1 + SILENT_CHUNKS)
                results += await stream.send(noise(2 * CHUNK_SAMPLES))
                results += await stream.end()
            check(stream.transcript, results)

    with fake_triton(PARAMETERS) as fake:
        fake.answer.set()
        fake.hear = a_word_per_chunk
        asyncio.run(run())


def test_nothing_is_sent_unless_it_is_wanted_and_the_stream_has_begun() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        kept = client.stream(sample_rate_hz=RATE_HZ, options=KEEP)
        stream = client.stream(sample_rate_hz=RATE_HZ)
        stream.send(noise(FIRST))
        assert fake.arrived.acquire()
        assert not fake.arrived.acquire(timeout=0.3)
        assert kept.finish().text == ""


def test_a_caller_waits_for_the_silence_that_is_under_way() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        stream = client.stream(sample_rate_hz=RATE_HZ, options=KEEP)
        stream.send(noise(FIRST))
        fake.answer.clear()
        wait_for_chunks(fake, 2)
        threading.Timer(0.1, fake.answer.set).start()
        assert len(stream.send(noise(CHUNK_SAMPLES))) >= 2


def test_an_error_of_the_silence_is_raised_by_the_next_call() -> None:
    def fail(index: int) -> Tokens:
        raise RuntimeError("out of order")

    timeouts = earshot.Timeouts(resume_s=0)
    with (
        fake_triton(PARAMETERS) as fake,
        earshot.connect(fake.url, timeouts=timeouts) as client,
    ):
        fake.answer.set()
        with client.stream(sample_rate_hz=RATE_HZ, options=KEEP) as stream:
            stream.send(noise(FIRST))
            fake.hear = fail
            wait_for_chunks(fake, 2)
            with pytest.raises(earshot.ServerFailed, match="out of order"):
                while True:
                    stream.send(noise(1))
            with pytest.raises(earshot.StreamClosed):
                stream.send(noise(1))


def test_a_stream_that_is_forgotten_is_not_kept() -> None:
    # END must arrive within the idle time, also on a busy machine.
    patient = {**PARAMETERS, "sequence_idle_ms": "3000"}
    with fake_triton(patient) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        stream = client.stream(sample_rate_hz=RATE_HZ, options=KEEP)
        stream.send(noise(FIRST))
        del stream
        # A thread that has just used the stream holds it for a moment, so once may be too early.
        wait_for(lambda: gc.collect() >= 0 and fake.seen[-1] == "END answered")
