"""A network that goes silent or away, models that go, and messages that are too large."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import earshot
import grpc
import numpy as np
import pytest
from earshot import _recognition
from earshot._format import AudioFormat
from earshot._recognition import Recognition
from earshot._server_info import read_offline_info

from loadtest.faults.tcp_proxy import TcpProxy, tcp_proxy
from tests.support import fake_recognizer
from tests.support.fake_recognizer import SLOW, SLOW_S, FakeRecognizer
from tests.support.fake_triton import OFFLINE, FakeTriton, ReceivedPiece, Tokens, fake_triton
from tests.support.launcher import wait_for
from tests.support.spoken_numbers import RATE_HZ, audio, recognize_numbers, script, words

SECOND = np.zeros(16000, np.int16)
KEEPALIVE_S = 2.0


@pytest.fixture
def proxy(server: FakeRecognizer) -> Iterator[TcpProxy]:
    """In front of a real Triton."""
    with tcp_proxy(server.url) as proxy:
        yield proxy


def test_the_default_finds_a_dead_path_within_ten_seconds() -> None:
    assert 2 * earshot.Timeouts().keepalive_s < 10


@pytest.mark.triton
def test_a_silent_path_is_noticed_and_new_streams_run(proxy: TcpProxy) -> None:
    timeouts = earshot.Timeouts(keepalive_s=KEEPALIVE_S, resume_s=0)
    with earshot.connect(proxy.url, timeouts=timeouts) as client:
        stream = client.stream(sample_rate_hz=16000)
        assert stream.send(SECOND)
        proxy.silence()
        with pytest.raises(earshot.StreamLost, match="stopped answering"):
            stream.send(SECOND)
        with client.stream(sample_rate_hz=16000) as another:
            assert another.send(SECOND)
            another.finish()


@pytest.mark.triton
def test_a_silent_path_is_noticed_by_the_asyncio_client(proxy: TcpProxy) -> None:
    async def run() -> None:
        timeouts = earshot.Timeouts(keepalive_s=KEEPALIVE_S, resume_s=0)
        async with earshot.connect_async(proxy.url, timeouts=timeouts) as client:
            stream = client.stream(sample_rate_hz=16000)
            assert await stream.send(SECOND)
            proxy.silence()
            with pytest.raises(earshot.StreamLost, match="stopped answering"):
                await stream.send(SECOND)
            async with client.stream(sample_rate_hz=16000) as another:
                assert await another.send(SECOND)
                await another.finish()

    asyncio.run(run())


@pytest.mark.triton
def test_a_new_client_does_not_meet_the_dead_path_of_another(proxy: TcpProxy) -> None:
    with earshot.connect(proxy.url):
        proxy.silence()
        with earshot.connect(proxy.url) as client:
            assert client.is_ready()


@pytest.mark.triton
def test_the_server_takes_pings_as_long_as_a_reply_is_due(server: FakeRecognizer) -> None:
    """Three pings within five minutes are an attack to Triton's defaults."""
    timeouts = earshot.Timeouts(keepalive_s=SLOW_S / 6)
    with (
        earshot.connect(server.url, timeouts=timeouts) as client,
        client.stream(sample_rate_hz=16000) as stream,
    ):
        for _ in range(3):
            assert stream.send(fake_recognizer.chunk(SLOW))
        stream.finish()


LOST = 3
"""gRPC leaves a connection that has ended after a moment, in which several requests may be lost."""


def test_an_end_on_a_dying_connection_is_sent_until_it_arrives(fake: FakeTriton) -> None:
    with earshot.connect(fake.url) as client:
        stream = client.stream(sample_rate_hz=16000)
        assert stream.send(SECOND)
        fake.lose["END"] = LOST
        stream.close()
        wait_for(lambda: fake.seen[-1] == "END answered")
    assert fake.seen.count("END lost") == LOST


def test_an_end_on_a_dying_connection_is_sent_until_it_arrives_async(fake: FakeTriton) -> None:
    async def run() -> None:
        async with earshot.connect_async(fake.url) as client:
            stream = client.stream(sample_rate_hz=16000)
            assert await stream.send(SECOND)
            fake.lose["END"] = LOST
            stream.close()
            await asyncio.to_thread(wait_for, lambda: fake.seen[-1] == "END answered")

    asyncio.run(run())
    assert fake.seen.count("END lost") == LOST


def test_a_stream_begins_on_a_dying_connection(fake: FakeTriton) -> None:
    fake.lose["chunk"] = LOST
    with earshot.connect(fake.url) as client, client.stream(sample_rate_hz=16000) as stream:
        assert stream.send(SECOND)
    assert fake.seen.count("chunk lost") == LOST


def test_a_connection_that_dies_each_time_gives_a_stream_up_in_time(fake: FakeTriton) -> None:
    fake.lose["chunk"] = 1000
    timeouts = earshot.Timeouts(queue_s=1, chunk_s=1)
    with earshot.connect(fake.url, timeouts=timeouts) as client:
        with pytest.raises(earshot.ConnectionFailed, match="Stream removed"):
            client.stream(sample_rate_hz=16000).send(SECOND)
        fake.lose.clear()
    assert 1 < fake.seen.count("chunk lost") < 20


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with fake_triton(fake_recognizer.PARAMETERS, models={"asr_offline": OFFLINE}) as fake:
        fake.recognize = recognize_numbers
        fake.answer.set()
        yield fake


Transcribe = Callable[..., earshot.Transcript]


def transcribe_sync(url: str, on_progress: Any, **arguments: Any) -> earshot.Transcript:
    samples = (audio(script(120, 20)) * 32768).astype(np.int16)
    with earshot.connect(url, **arguments) as client:
        return client.transcribe(
            samples, sample_rate_hz=RATE_HZ, at_once=2, on_progress=on_progress
        )


def transcribe_async(url: str, on_progress: Any, **arguments: Any) -> earshot.Transcript:
    samples = (audio(script(120, 20)) * 32768).astype(np.int16)

    async def run() -> earshot.Transcript:
        async with earshot.connect_async(url, **arguments) as client:
            return await client.transcribe(
                samples, sample_rate_hz=RATE_HZ, at_once=2, on_progress=on_progress
            )

    return asyncio.run(run())


both_clients = pytest.mark.parametrize("transcribe", [transcribe_sync, transcribe_async])


@both_clients
def test_a_file_waits_for_a_server_that_is_away(
    fake: FakeTriton, transcribe: Transcribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is away for longer than all attempts at a piece take together."""
    monkeypatch.setattr(_recognition, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(_recognition, "OUTAGE_DELAY_S", 0.05)
    with tcp_proxy(fake.url) as proxy:
        back = threading.Timer(1.5, proxy.listen)

        def leave(done_s: float) -> None:
            if not back.is_alive() and not back.finished.is_set():
                back.start()
                proxy.cut()

        transcript = transcribe(proxy.url, leave)
        back.join()
    assert transcript.failed == ()
    assert [word.text for word in transcript.words] == [text for text, _ in words(script(120, 20))]


def test_a_file_waits_no_longer_than_its_deadline() -> None:
    info = read_offline_info("localhost:8001", "triton", OFFLINE)
    timeouts = earshot.Timeouts(outage_s=60)
    recognition = Recognition(info, timeouts, AudioFormat(16000), at_once=1)
    [call] = [*recognition.push(np.zeros(1000, np.float32)), *recognition.end()]
    for now_s in range(100, 160):
        assert recognition.fail(call, Failure("UNAVAILABLE", "Connection refused"), now_s)
        assert recognition.fail(call, Failure("UNAVAILABLE", "Server is stopping"), now_s)
    assert recognition.fail(call, Failure("UNAVAILABLE", "Connection refused"), 160) is None
    assert isinstance(call.error, earshot.ConnectionFailed)


class Failure:
    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[self._name]

    def details(self) -> str:
        return self._text


@pytest.fixture
def generations() -> Iterator[FakeTriton]:
    """Serve the first of two generations, for streams and files."""
    models = {
        "clinic_v1_asr_streaming": fake_recognizer.PARAMETERS,
        "clinic_v1_asr_offline": OFFLINE,
    }
    with fake_triton(None, models=models) as fake:
        fake.recognize = recognize_numbers
        fake.answer.set()
        yield fake


def replace_generation(fake: FakeTriton, **changed: str) -> None:
    fake.models = {
        "clinic_v2_asr_streaming": fake_recognizer.PARAMETERS | changed,
        "clinic_v2_asr_offline": OFFLINE,
    }


def test_a_new_stream_finds_the_next_generation(generations: FakeTriton) -> None:
    with earshot.connect(generations.url, model="clinic") as client:
        replace_generation(generations)
        with client.stream(sample_rate_hz=16000) as stream:
            assert stream.send(SECOND)
            stream.finish()
        assert client.info.name == "clinic_v2"

    async def run() -> None:
        async with earshot.connect_async(generations.url, model="clinic") as client:
            replace_generation(generations)
            generations.models = {
                name.replace("v2", "v3"): model for name, model in generations.models.items()
            }
            async with client.stream(sample_rate_hz=16000) as stream:
                assert await stream.send(SECOND)
                await stream.finish()
            assert client.info.name == "clinic_v3"

    asyncio.run(run())


def test_a_stream_does_not_move_to_other_chunks(generations: FakeTriton) -> None:
    timeouts = earshot.Timeouts(resume_s=0)
    with earshot.connect(generations.url, model="clinic", timeouts=timeouts) as client:
        replace_generation(generations, chunk_samples="2560", chunk_ms="160")
        with (
            client.stream(sample_rate_hz=16000) as stream,
            pytest.raises(earshot.StreamLost, match="no longer serves clinic_v1"),
        ):
            stream.send(SECOND)
        with client.stream(sample_rate_hz=16000) as stream:  # the client has been refreshed
            assert stream.send(SECOND)
            stream.finish()


@both_clients
def test_a_file_goes_on_with_the_next_generation(
    generations: FakeTriton, transcribe: Transcribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_recognition, "FIRST_DELAY_S", 0.01)
    transcript = transcribe(
        generations.url, lambda done_s: replace_generation(generations), model="clinic"
    )
    assert transcript.failed == ()
    assert [word.text for word in transcript.words] == [text for text, _ in words(script(120, 20))]


@pytest.mark.parametrize(
    ("code", "details", "message"),
    [
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (1920147 vs. 1048576)",
            "at most 1048576 bytes, and this one has 1920147",
        ),
        (
            grpc.StatusCode.UNKNOWN,
            "Received http2 header with status: 413",
            r"a message of \d{6} bytes \(HTTP 413\): raise its limit above that",
        ),
    ],
)
def test_a_message_too_large_is_sent_once_and_names_the_limit(
    fake: FakeTriton, code: grpc.StatusCode, details: str, message: str
) -> None:
    def refuse(piece: ReceivedPiece) -> Tokens:
        piece.context.abort(code, details)
        return []

    fake.recognize = refuse
    with (
        earshot.connect(fake.url) as client,
        pytest.raises(earshot.MessageTooLarge, match=message),
    ):
        client.transcribe(np.zeros(200_000, np.int16), sample_rate_hz=16000)
    assert len(fake.pieces) == 1
