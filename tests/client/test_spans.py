"""Streams and files are spans of OpenTelemetry, and what the server gets of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import earshot
import numpy as np
import pytest
from earshot import StreamOptions
from opentelemetry.sdk.trace import ReadableSpan

from tests.support import fake_recognizer
from tests.support.fake_recognizer import CHUNK_SAMPLES, FIRST, RATE_HZ, noise
from tests.support.fake_triton import OFFLINE, FakeTriton, fake_triton
from tests.support.traces import recorded

FIVE_CHUNKS = FIRST + 4 * CHUNK_SAMPLES
SILENCE = np.zeros(100 * RATE_HZ, np.float32)
TAGGED = StreamOptions(tag="call-17", trace_every=2)


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        fake.answer.set()
        yield fake


def stream_once(url: str) -> None:
    with (
        earshot.connect(url) as client,
        client.stream(sample_rate_hz=RATE_HZ, options=TAGGED) as stream,
    ):
        stream.send(noise(FIVE_CHUNKS))


def stream_once_async(url: str) -> None:
    async def stream() -> None:
        async with (
            earshot.connect_async(url) as client,
            client.stream(sample_rate_hz=RATE_HZ, options=TAGGED) as stream,
        ):
            await stream.send(noise(FIVE_CHUNKS))

    asyncio.run(stream())


@pytest.mark.parametrize("stream", [stream_once, stream_once_async])
def test_a_stream_is_a_span_and_chunks_carry_it(
    fake: FakeTriton, stream: Callable[[str], None]
) -> None:
    with recorded() as recording:
        stream(fake.url)
    [span] = recording.spans
    host, _, port = fake.url.rpartition(":")
    assert (span.name, span.kind.name) == ("stream asr_streaming", "CLIENT")
    assert attributes(span) == {
        "server.address": host,
        "server.port": int(port),
        "earshot.recognizer": "asr_streaming",
        "earshot.checkpoint": "fake",
        "earshot.chunk_ms": 80,
        "earshot.tag": "call-17",
        "earshot.audio_s": FIVE_CHUNKS / RATE_HZ,
        "earshot.requests": 6,
        "earshot.resumptions": 0,
    }
    assert span.parent is not None and span.parent.is_remote
    context = traceparent(span)
    carried = [headers.get("traceparent") for headers in fake.headers]
    assert carried == [context, None, context, None, context, None]


def test_by_default_few_chunks_carry_a_context(fake: FakeTriton) -> None:
    with (
        recorded(),
        earshot.connect(fake.url) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        stream.send(noise(FIRST + 19 * CHUNK_SAMPLES))
    carriers = [i for i, headers in enumerate(fake.headers) if "traceparent" in headers]
    assert carriers == [0, 10, 20]


@pytest.mark.parametrize("inside", [True, False], ids=["not sampled", "no trace"])
def test_a_stream_that_is_not_sampled_sends_no_context(fake: FakeTriton, inside: bool) -> None:
    """Triton would trace all of its chunks, whatever the context says."""
    if inside:
        with recorded(sampled=False) as recording:
            stream_once(fake.url)
        assert not recording.spans
    else:
        stream_once(fake.url)
    assert len(fake.headers) == 6
    assert not any("traceparent" in headers for headers in fake.headers)


def test_the_error_that_ends_a_stream_is_that_of_its_span(fake: FakeTriton) -> None:
    fake.answer.clear()
    hurried = earshot.Timeouts(queue_s=0.1, chunk_s=0.1, close_s=5)
    with recorded() as recording, earshot.connect(fake.url, timeouts=hurried) as client:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        with pytest.raises(earshot.ChunkTimeout) as late:
            stream.send(noise(FIRST))
        fake.answer.set()
    [span] = recording.spans
    assert attributes(span)["error.type"] == "ChunkTimeout"
    assert (span.status.status_code.name, span.status.description) == ("ERROR", str(late.value))


def test_the_span_of_an_abandoned_stream_ends(fake: FakeTriton) -> None:
    with recorded() as recording, earshot.connect(fake.url) as client:
        client.stream(sample_rate_hz=RATE_HZ).send(noise(FIVE_CHUNKS))
    [span] = recording.spans
    assert attributes(span)["earshot.requests"] == 5
    assert span.status.is_unset


def test_a_span_tells_where_its_stream_went_on(fake: FakeTriton) -> None:
    with recorded() as recording:
        with fake_triton(fake_recognizer.PARAMETERS) as home:
            home.answer.set()
            client = earshot.connect([home.url, fake.url])
            stream = client.stream(sample_rate_hz=RATE_HZ, options=TAGGED)
            stream.send(noise(FIVE_CHUNKS))
        stream.send(noise(2 * CHUNK_SAMPLES))
        client.close()
    [span] = recording.spans
    [event] = span.events
    assert event.name == "earshot.resumed"
    assert event.attributes is not None and event.attributes["earshot.url"] == fake.url
    assert attributes(span)["earshot.resumptions"] == 1
    # The chunks 0 to 5, of which five are repeated, and 6; then END.
    carriers = [i for i, headers in enumerate(fake.headers) if "traceparent" in headers]
    assert carriers == [0, 2, 4, 6]


def test_a_span_tells_of_a_server_that_is_lost_at_the_end(fake: FakeTriton) -> None:
    with recorded() as recording:
        with fake_triton(fake_recognizer.PARAMETERS) as home:
            home.answer.set()
            client = earshot.connect([home.url, fake.url])
            stream = client.stream(sample_rate_hz=RATE_HZ)
            stream.send(noise(FIVE_CHUNKS))
        stream.finish()
        client.close()
    [span] = recording.spans
    assert [event.name for event in span.events] == ["earshot.resumed"]
    assert attributes(span)["earshot.resumptions"] == 1


def transcribe(url: str) -> None:
    with earshot.connect(url) as client:
        client.transcribe(SILENCE, sample_rate_hz=RATE_HZ, options=TAGGED, at_once=1)


def transcribe_async(url: str) -> None:
    async def transcribe() -> None:
        async with earshot.connect_async(url) as client:
            await client.transcribe(SILENCE, sample_rate_hz=RATE_HZ, options=TAGGED, at_once=1)

    asyncio.run(transcribe())


@pytest.mark.parametrize("transcribe", [transcribe, transcribe_async])
def test_a_file_is_a_span_and_pieces_carry_it(transcribe: Callable[[str], None]) -> None:
    headers: list[Mapping[str, str]] = []
    with fake_triton(None, models={"asr_offline": OFFLINE}) as fake:
        fake.recognize = lambda piece: (
            headers.append(dict(piece.context.invocation_metadata())) or []
        )
        with recorded() as recording:
            transcribe(fake.url)
    [span] = recording.spans
    assert span.name == "transcribe asr_offline"
    assert attributes(span)["earshot.audio_s"] == 100
    assert attributes(span)["earshot.requests"] == len(headers) > 3
    for index, of_piece in enumerate(headers):
        assert of_piece.get("traceparent") == (None if index % 2 else traceparent(span))


def test_a_file_that_fails_is_a_span_with_its_error() -> None:
    with (
        fake_triton(None, models={"asr_offline": OFFLINE}) as fake,
        recorded() as recording,
        earshot.connect(fake.url) as client,
        pytest.raises(earshot.InvalidAudio),
    ):
        client.transcribe(np.full(RATE_HZ, np.nan, np.float32), sample_rate_hz=RATE_HZ)
    [span] = recording.spans
    assert attributes(span)["error.type"] == "InvalidAudio"


def test_trace_every_is_a_positive_number() -> None:
    with pytest.raises(ValueError, match="expected trace_every of at least 1, got 0"):
        StreamOptions(trace_every=0)


def test_the_client_works_without_opentelemetry(fake: FakeTriton) -> None:
    script = f"""
import sys
sys.modules["opentelemetry"] = None
import earshot, numpy
with earshot.connect("{fake.url}") as client, client.stream(sample_rate_hz={RATE_HZ}) as stream:
    stream.send(numpy.zeros({FIRST}, numpy.float32))
assert not any(name.startswith("opentelemetry.") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    assert len(fake.headers) == 2


def attributes(span: ReadableSpan) -> dict[str, Any]:
    assert span.attributes is not None
    return dict(span.attributes)


def traceparent(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
