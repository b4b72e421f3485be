"""Programs that use the client wrongly, or in unusual ways, get its own errors, in words."""

from __future__ import annotations

import array
import asyncio
import io
import subprocess
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import earshot
import numpy as np
import pytest
import soundfile
from earshot._cli import microphone
from earshot._cli.microphone import Microphone

from tests.support import fake_recognizer
from tests.support.fake_recognizer import SLOW, FakeRecognizer, chunk
from tests.support.fake_triton import OFFLINE, fake_triton
from tests.support.launcher import wait_for

pytestmark = pytest.mark.triton

SECOND = np.zeros(16000, np.int16)

OF_A_CLOSED_CLIENT: dict[str, Callable[[earshot.Client], Any]] = {
    "stream": lambda client: client.stream(sample_rate_hz=16000),
    "transcribe": lambda client: client.transcribe(SECOND, sample_rate_hz=16000),
    "refresh": lambda client: client.refresh(),
    "is_ready": lambda client: client.is_ready(),
}


@pytest.mark.parametrize("call", OF_A_CLOSED_CLIENT.values(), ids=OF_A_CLOSED_CLIENT.keys())
def test_a_closed_client(server: FakeRecognizer, call: Callable[[earshot.Client], Any]) -> None:
    with earshot.connect(server.url) as client:
        pass
    with pytest.raises(earshot.StreamClosed, match="client is closed"):
        call(client)


def test_a_stream_of_a_closed_client(server: FakeRecognizer) -> None:
    with earshot.connect(server.url) as client:
        stream = client.stream(sample_rate_hz=16000)
    with pytest.raises(earshot.StreamClosed):
        stream.send(SECOND)


def test_a_closed_asyncio_client(server: FakeRecognizer) -> None:
    async def run() -> None:
        async with earshot.connect_async(server.url) as client:
            pass
        with pytest.raises(earshot.StreamClosed, match="client is closed"):
            client.stream(sample_rate_hz=16000)
        for call in (client.refresh, client.is_ready):
            with pytest.raises(earshot.StreamClosed, match="client is closed"):
                await call()

    asyncio.run(run())


def test_closing_ends_the_tasks_that_wait_for_a_chunk() -> None:
    """Nobody has cancelled them, so they must not see a cancellation."""

    async def run() -> None:
        with fake_triton(fake_recognizer.PARAMETERS) as fake:
            timeouts = earshot.Timeouts(close_s=0.1)
            async with earshot.connect_async(fake.url, timeouts=timeouts) as client:
                stream = client.stream(sample_rate_hz=16000)
                task = asyncio.create_task(stream.send(SECOND))
                await asyncio.to_thread(fake.arrived.acquire)
            with pytest.raises(earshot.StreamClosed, match="client is closed"):
                await asyncio.wait_for(task, 60)

    asyncio.run(run())


def test_closing_ends_the_tasks_that_wait_for_a_file() -> None:
    async def run() -> None:
        release = threading.Event()
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()

        def recognize(piece: Any) -> list[Any]:
            loop.call_soon_threadsafe(arrived.set)
            release.wait(60)
            return []

        with fake_triton(None, models={"asr_offline": OFFLINE}) as fake:
            fake.recognize = recognize
            async with earshot.connect_async(fake.url) as client:
                task = asyncio.create_task(client.transcribe(SECOND, sample_rate_hz=16000))
                await arrived.wait()
            release.set()
            with pytest.raises(earshot.StreamClosed, match="client is closed"):
                await asyncio.wait_for(task, 60)

    asyncio.run(run())


def test_two_threads_on_one_stream(client: earshot.Client, server: FakeRecognizer) -> None:
    with client.stream(sample_rate_hz=16000) as stream:
        slow = threading.Thread(target=stream.send, args=(chunk(SLOW),))
        with server.holding():
            slow.start()
            wait_for(lambda: bool(server.chunks()))
            with pytest.raises(earshot.StreamInUse, match="send from one of them"):
                stream.send(SECOND[:10])
        slow.join()
        assert stream.finish().duration_s > 0  # the stream of the first thread goes on


def test_three_tasks_on_one_stream(server: FakeRecognizer) -> None:
    async def run() -> list[Any]:
        async with (
            earshot.connect_async(server.url) as client,
            client.stream(sample_rate_hz=16000) as stream,
        ):
            sends = [stream.send(SECOND) for _ in range(3)]
            results = await asyncio.gather(*sends, return_exceptions=True)
            await stream.finish()
            return results

    sent, *refused = asyncio.run(run())
    assert sent
    assert [type(error) for error in refused] == [earshot.StreamInUse] * 2


@pytest.mark.parametrize(
    "wrong", [{"sample_rate_hz": "16000"}, {"sample_rate_hz": 16000, "channels": "2"}]
)
def test_numbers_as_text(client: earshot.Client, wrong: dict[str, Any]) -> None:
    with pytest.raises(earshot.InvalidAudio, match="got '"):
        client.stream(**wrong)


@pytest.mark.parametrize(
    "same", [memoryview, bytearray, lambda pcm: array.array("h", pcm), np.frombuffer]
)
def test_any_buffer_is_audio(client: earshot.Client, same: Callable[..., Any]) -> None:
    pcm = (fake_recognizer.noise(16000) * 32768).astype(np.int16).tobytes()
    arguments = {"dtype": np.int16} if same is np.frombuffer else {}
    expected = client.transcribe(pcm, sample_rate_hz=16000)
    got = client.transcribe(same(pcm, **arguments), sample_rate_hz=16000)
    assert (got.text, got.duration_s) == (expected.text, expected.duration_s)


def test_open_files(client: earshot.Client) -> None:
    file = io.BytesIO()
    soundfile.write(file, fake_recognizer.noise(16000), 16000, format="FLAC")
    file.seek(0)
    expected = client.transcribe(fake_recognizer.noise(16000), sample_rate_hz=16000)
    assert client.transcribe(file).duration_s == expected.duration_s == 1
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with cat:
        assert cat.stdin is not None and cat.stdout is not None
        threading.Thread(target=_feed, args=(cat.stdin, file.getvalue())).start()
        assert client.transcribe(cast("BinaryIO", cat.stdout)).duration_s == 1
    with pytest.raises(earshot.InvalidAudio, match="binary mode"):
        client.transcribe(io.StringIO("text"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(earshot.InvalidAudio, match="the file: cannot be read as audio"):
        client.transcribe(io.BytesIO(b"no audio"))


def _feed(pipe: Any, content: bytes) -> None:
    pipe.write(content)
    pipe.close()


def test_lost_audio_of_a_microphone_is_counted() -> None:
    device = Microphone(16000)
    for lost in (False, True, False):
        device.record(b"\0\0", 1, None, SimpleNamespace(input_overflow=lost))
    device.stop()
    assert (list(device), device.overflows) == ([b"\0\0"] * 3, 1)


def test_a_microphone_that_is_unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microphone, "SILENCE_S", 0.1)
    with pytest.raises(earshot.InvalidAudio, match="still connected"):
        list(Microphone(16000))
