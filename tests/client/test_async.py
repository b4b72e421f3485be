"""The asyncio client against a real Triton, where it differs from the blocking one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import earshot
import numpy as np
import pytest
import soundfile

from tests.support import fake_recognizer
from tests.support.fake_recognizer import (
    FIRST,
    PATIENT,
    RATE_HZ,
    FakeRecognizer,
    chunk,
    noise,
    texts,
)

pytestmark = pytest.mark.triton

TIMEOUT_S = 120

Scenario = Callable[[earshot.AsyncClient], Awaitable[None]]


def run(server: FakeRecognizer, scenario: Scenario, timeouts: earshot.Timeouts = PATIENT) -> None:
    """Run the scenario; no error may be left to the event loop."""
    errors: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: errors.append(c))
        async with earshot.connect_async(server.url, timeouts=timeouts) as client:
            await asyncio.wait_for(scenario(client), TIMEOUT_S)
        gc.collect()

    asyncio.run(main())
    assert not errors


def test_fifty_streams_at_once_stay_apart(server: FakeRecognizer) -> None:
    async def transcribe(client: earshot.AsyncClient, seed: int) -> None:
        audio = noise(8000 + 100 * seed, seed)
        results: list[earshot.ChunkResult] = []
        async with client.stream(sample_rate_hz=RATE_HZ) as stream:
            for piece in np.array_split(audio, 5):
                results += await stream.send(piece)
            results += await stream.end()
            transcript = await stream.finish()
        assert texts(transcript.words) == fake_recognizer.expected_words(audio)
        assert "".join(result.text for result in results) == transcript.text

    async def scenario(client: earshot.AsyncClient) -> None:
        assert await client.is_ready()
        await asyncio.gather(*(transcribe(client, seed) for seed in range(50)))

    run(server, scenario)


def test_stream_from_takes_both_kinds_of_iterables(server: FakeRecognizer) -> None:
    audio = noise(10000)

    async def microphone() -> AsyncIterator[earshot.Pcm]:
        for piece in np.array_split(audio, 7):
            await asyncio.sleep(0)
            yield piece

    async def scenario(client: earshot.AsyncClient) -> None:
        for source in (microphone(), np.array_split(audio, 3)):
            text = ""
            async for result in client.stream_from(source, sample_rate_hz=RATE_HZ):
                text += result.text
            assert text.split() == fake_recognizer.expected_words(audio)

    run(server, scenario)


def test_a_stream_from_that_is_dropped_half_way(server: FakeRecognizer) -> None:
    async def scenario(client: earshot.AsyncClient) -> None:
        async for _ in client.stream_from([noise(10000)], sample_rate_hz=RATE_HZ):
            break

    run(server, scenario)


def test_files(server: FakeRecognizer, tmp_path: Path) -> None:
    path = tmp_path / "noise.flac"
    soundfile.write(path, noise(20000), RATE_HZ)
    decoded, _ = soundfile.read(path, dtype="float32")

    async def scenario(client: earshot.AsyncClient) -> None:
        transcript = await client.transcribe(path)
        assert texts(transcript.words) == fake_recognizer.expected_words(decoded)

    run(server, scenario)


def test_end_on_cancellation(server: FakeRecognizer) -> None:
    before = len(server.chunks())

    async def scenario(client: earshot.AsyncClient) -> None:
        async def stream() -> None:
            async with client.stream(sample_rate_hz=RATE_HZ) as stream:
                await stream.send(chunk(fake_recognizer.SLOW))

        with server.holding():
            streaming = asyncio.ensure_future(stream())
            while len(server.chunks()) == before:
                await asyncio.sleep(0.01)
            streaming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await streaming

    run(server, scenario)


def test_end_on_an_error_in_the_block(server: FakeRecognizer) -> None:
    async def scenario(client: earshot.AsyncClient) -> None:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        with pytest.raises(KeyError):
            async with stream:
                await stream.send(chunk())
                raise KeyError
        with pytest.raises(earshot.StreamClosed):
            await stream.send(chunk())

    run(server, scenario)


def test_end_when_it_is_garbage(server: FakeRecognizer) -> None:
    before = len(server.chunks())

    async def scenario(client: earshot.AsyncClient) -> None:
        await client.stream(sample_rate_hz=RATE_HZ).send(noise(FIRST))
        gc.collect()
        while len(server.chunks()) < before + 2:
            await asyncio.sleep(0.01)

    run(server, scenario)
    assert server.chunks()[-1].end


def test_end_when_the_client_closes(server: FakeRecognizer) -> None:
    async def scenario(client: earshot.AsyncClient) -> None:
        kept.append(client.stream(sample_rate_hz=RATE_HZ))
        await kept[0].send(chunk())

    kept: list[earshot.AsyncStream] = []
    run(server, scenario)


@pytest.mark.parametrize(
    ("marker", "timeouts", "kind"),
    [
        (fake_recognizer.SLOW, replace(PATIENT, chunk_s=0.2), earshot.ChunkTimeout),
        (fake_recognizer.FAIL, PATIENT, earshot.ServerFailed),
    ],
)
def test_errors_carry_what_was_recognized(
    server: FakeRecognizer,
    marker: float,
    timeouts: earshot.Timeouts,
    kind: type[earshot.StreamError],
) -> None:
    async def scenario(client: earshot.AsyncClient) -> None:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        (first,) = await stream.send(noise(FIRST))
        with server.holding(), pytest.raises(kind) as caught:
            await stream.send(chunk(marker))
        assert caught.value.transcript is not None
        assert caught.value.transcript.text == first.text

    run(server, scenario, timeouts)


def test_refused(server: FakeRecognizer) -> None:
    async def scenario(client: earshot.AsyncClient) -> None:
        with pytest.raises(earshot.ServerBusy):
            await client.stream(sample_rate_hz=RATE_HZ).send(chunk(fake_recognizer.REFUSE))

    run(server, scenario)
