"""A stream stays with the replica that a proxy has named in its first answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import earshot
import pytest

from tests.support import fake_recognizer
from tests.support.fake_recognizer import CHUNK_SAMPLES, FIRST, RATE_HZ, noise
from tests.support.fake_triton import FakeTriton, fake_triton

HEADER = "earshot-replica"


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        fake.answer_headers = ((HEADER, "MTAuMC4wLjE6ODAwMQ=="), ("server", "envoy"))
        fake.answer.set()
        yield fake


def stream_once(url: str) -> None:
    with earshot.connect(url) as client, client.stream(sample_rate_hz=RATE_HZ) as stream:
        stream.send(noise(FIRST + CHUNK_SAMPLES))


def stream_once_async(url: str) -> None:
    async def stream() -> None:
        async with (
            earshot.connect_async(url) as client,
            client.stream(sample_rate_hz=RATE_HZ) as stream,
        ):
            await stream.send(noise(FIRST + CHUNK_SAMPLES))

    asyncio.run(stream())


@pytest.mark.parametrize("stream", [stream_once, stream_once_async])
def test_the_header_of_the_first_answer_comes_back(
    fake: FakeTriton, stream: Callable[[str], None]
) -> None:
    stream(fake.url)
    stream(fake.url)
    one_stream = [None, "MTAuMC4wLjE6ODAwMQ==", "MTAuMC4wLjE6ODAwMQ=="]
    assert [headers.get(HEADER) for headers in fake.headers] == 2 * one_stream
    assert all("server" not in headers for headers in fake.headers)


def test_without_a_proxy_there_is_no_header(fake: FakeTriton) -> None:
    fake.answer_headers = ()
    stream_once(fake.url)
    assert all(HEADER not in headers for headers in fake.headers)


HURRIED = earshot.Timeouts(queue_s=0.1, chunk_s=0.2, resume_s=0, close_s=60)


def give_up(fake: FakeTriton) -> None:
    with earshot.connect(fake.url, timeouts=HURRIED) as client:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        with pytest.raises(earshot.ChunkTimeout):
            stream.send(noise(FIRST))
        stream.close()
        fake.answer.set()


def give_up_async(fake: FakeTriton) -> None:
    async def give_up() -> None:
        async with earshot.connect_async(fake.url, timeouts=HURRIED) as client:
            stream = client.stream(sample_rate_hz=RATE_HZ)
            with pytest.raises(earshot.ChunkTimeout):
                await stream.send(noise(FIRST))
            stream.close()
            fake.answer.set()

    asyncio.run(give_up())


@pytest.mark.parametrize("late", [give_up, give_up_async])
def test_the_end_of_a_stream_whose_first_answer_is_late_goes_to_its_replica(
    fake: FakeTriton, late: Callable[[FakeTriton], None]
) -> None:
    """Elsewhere it would free nothing."""
    fake.answer.clear()
    late(fake)
    assert [headers.get(HEADER) for headers in fake.headers] == [None, "MTAuMC4wLjE6ODAwMQ=="]
