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
