"""A live stream goes on when its connection or its server goes, and says so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import earshot
import numpy as np
import pytest
import soundfile
from earshot import ServerInfo, Timeouts
from earshot._chunker import Chunk
from earshot._cli import app
from earshot._history import CONTEXT_S, History
from typer.testing import CliRunner

from loadtest.faults.tcp_proxy import TcpProxy, tcp_proxy
from server import launch
from tests.client.test_finalize import CONVERSATION, OPTIONS
from tests.client.test_live import end_on_the_server
from tests.support import fake_recognizer
from tests.support.fake_recognizer import (
    CHUNK_SAMPLES,
    FAIL,
    FIRST,
    FRAME_MS,
    LEAD_SAMPLES,
    PATIENT,
    RATE_HZ,
    SLOW,
    FakeRecognizer,
    chunk,
    noise,
    texts,
)
from tests.support.fake_triton import Tokens, fake_triton
from tests.support.launcher import wait_for

AUDIO = noise(RATE_HZ)
NOBODY = "127.0.0.1:1"
CALLS = 17
"""To the stream of `converse`."""


@dataclass(frozen=True)
class Ended:
    """What a stream has told of itself at its end."""

    results: list[earshot.ChunkResult]
    transcript: earshot.Transcript
    resumptions: tuple[earshot.Resumption, ...]
    acknowledged_s: float


Run = Callable[[str, list[np.ndarray], Timeouts], Ended]


def run_sync(url: str, pieces: list[np.ndarray], timeouts: Timeouts) -> Ended:
    with (
        earshot.connect(url, timeouts=timeouts) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        results = list(stream.send_all(pieces))
        return Ended(results, stream.transcript, stream.resumptions, stream.acknowledged_s)


def run_async(url: str, pieces: list[np.ndarray], timeouts: Timeouts) -> Ended:
    async def run() -> Ended:
        async with (
            earshot.connect_async(url, timeouts=timeouts) as client,
            client.stream(sample_rate_hz=RATE_HZ) as stream,
        ):
            results = [result async for result in stream.send_all(pieces)]
            return Ended(results, stream.transcript, stream.resumptions, stream.acknowledged_s)

    return asyncio.run(run())


both_clients = pytest.mark.parametrize("run", [run_sync, run_async])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRecognizer]:
    """A server of its own: no END reaches a server to which the path is cut."""
    folder = tmp_path_factory.mktemp("cut_off")
    log = folder / "chunks.jsonl"
    with launch.running(fake_recognizer.write_repository(folder / "models", log)) as triton:
        yield FakeRecognizer(triton.grpc_url, log)


@pytest.fixture
def proxy(server: FakeRecognizer) -> Iterator[TcpProxy]:
    with tcp_proxy(server.url) as proxy:
        yield proxy
        # Triton may crash when a connection goes under its requests; it answers them in order.
        with earshot.connect(server.url, timeouts=PATIENT) as client:
            client.transcribe(AUDIO, sample_rate_hz=RATE_HZ)


@contextmanager
def in_the_middle_of_a_chunk(server: FakeRecognizer, act: Callable[[], None]) -> Generator[None]:
    """Act when the second chunk of the block's stream is under way, which must be a slow one."""
    before = len(server.chunks())
    held = ExitStack()
    held.enter_context(server.holding())

    def wait_and_act() -> None:
        with held:
            wait_for(lambda: len(server.chunks()) >= before + 2)
            act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.triton
@both_clients
def test_a_stream_goes_on_after_its_connection(
    server: FakeRecognizer, proxy: TcpProxy, run: Run
) -> None:
    pieces = [AUDIO[:FIRST], chunk(SLOW), AUDIO[FIRST:]]

    def cut() -> None:
        proxy.cut()
        proxy.listen()

    began_s = time.monotonic()
    with in_the_middle_of_a_chunk(server, cut):
        ended = run(proxy.url, pieces, PATIENT)
    took_s = time.monotonic() - began_s
    # The text names each chunk by its number and checksum.
    assert texts(ended.transcript.words) == fake_recognizer.expected_words(np.concatenate(pieces))
    assert "".join(result.text for result in ended.results) == ended.transcript.text
    assert [word.start_ms for word in ended.transcript.words] == [
        80 * index for index in range(len(ended.transcript.words))
    ]
    [resumed] = ended.resumptions
    assert [result.resumed for result in ended.results if result.resumed] == [resumed]
    assert ended.results[1].resumed is resumed
    assert resumed.position_s == FIRST / RATE_HZ
    assert 1000 * fake_recognizer.SLOW_S < resumed.gap_ms < 1000 * took_s
    assert resumed.url == proxy.url
    assert "stopped answering" in resumed.cause
    assert ended.acknowledged_s == ended.transcript.duration_s


@pytest.mark.triton
def test_a_stream_that_the_server_has_dropped_goes_on(server: FakeRecognizer) -> None:
    with (
        earshot.connect(server.url, timeouts=PATIENT) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        stream.send(AUDIO[:FIRST])
        assert stream.acknowledged_s == FIRST / RATE_HZ
        end_on_the_server(server, server.chunks()[-1].id)
        stream.send(AUDIO[FIRST:])
        transcript = stream.finish()
    assert texts(transcript.words) == fake_recognizer.expected_words(AUDIO)
    assert "no longer knows the stream" in stream.resumptions[0].cause


def converse(server: FakeRecognizer, lost_before: int = -1) -> Ended:
    """Stream a conversation in utterances, with `finalize` in the midst of speech and in silence.

    The server drops the stream before the call of that number.
    """
    with (
        earshot.connect(server.url) as client,
        client.stream(sample_rate_hz=RATE_HZ, options=OPTIONS) as stream,
    ):
        sends = [partial(stream.send, piece) for piece in np.array_split(CONVERSATION, 14)]
        calls = [*sends[:3], stream.finalize, *sends[3:6], stream.finalize, *sends[6:], stream.end]
        results: list[earshot.ChunkResult] = []
        for number, call in enumerate(calls):
            if number == lost_before:
                end_on_the_server(server, server.chunks()[-1].id)
            results += call()
        assert len(calls) == CALLS
        return Ended(results, stream.transcript, stream.resumptions, stream.acknowledged_s)


@pytest.mark.triton
def test_utterances_and_finalize_go_on_at_the_seam(server: FakeRecognizer) -> None:
    undisturbed = converse(server)
    # Each `finalize` ends one: the fake recognizer writes words in silence, too.
    assert len(undisturbed.transcript.utterances) == 4
    for lost_before in range(1, CALLS):
        ended = converse(server, lost_before)
        assert len(ended.resumptions) == 1
        assert ended.transcript == undisturbed.transcript
        told = [result.utterances for result in undisturbed.results]
        assert [result.utterances for result in ended.results] == told


@pytest.mark.triton
def test_the_acknowledged_position_is_that_of_the_audio(server: FakeRecognizer) -> None:
    with (
        earshot.connect(server.url, timeouts=PATIENT) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        assert stream.acknowledged_s == 0
        stream.send(AUDIO[: FIRST + 100])
        assert stream.acknowledged_s == FIRST / RATE_HZ
        stream.finalize()  # sends silence, which does not count
        assert stream.acknowledged_s == pytest.approx((FIRST + 100) / RATE_HZ, abs=0.08)
        stream.send(AUDIO[FIRST + 100 :])
        stream.finish()
        assert stream.acknowledged_s == stream.duration_s == 1


@pytest.mark.triton
@both_clients
def test_it_gives_up_in_time_and_keeps_the_text(
    server: FakeRecognizer, proxy: TcpProxy, run: Run
) -> None:
    with (
        in_the_middle_of_a_chunk(server, proxy.cut),
        pytest.raises(earshot.StreamLost, match=r"stopped answering.*; after 0\.5 s, ") as caught,
    ):
        run(proxy.url, [AUDIO[:FIRST], chunk(SLOW)], replace(PATIENT, close_s=1, resume_s=0.5))
    assert caught.value.transcript is not None
    assert texts(caught.value.transcript.words) == fake_recognizer.expected_words(AUDIO[:FIRST])


@pytest.mark.triton
def test_a_chunk_that_every_attempt_fails_on_ends_the_stream(server: FakeRecognizer) -> None:
    with earshot.connect(server.url, timeouts=PATIENT) as client:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        stream.send(AUDIO[:FIRST])
        before = len(server.chunks())
        with pytest.raises(earshot.ServerFailed, match="told to fail"):
            stream.send(chunk(FAIL))
        failing = server.chunks()[before].crc
        assert [c.crc for c in server.chunks()].count(failing) == 3


@pytest.mark.triton
def test_the_client_takes_the_first_server_that_answers(server: FakeRecognizer) -> None:
    with earshot.connect([NOBODY, server.url]) as client:
        assert client.info.url == server.url
        with client.stream(sample_rate_hz=RATE_HZ) as stream:
            stream.send(AUDIO)
            assert texts(stream.finish().words) == fake_recognizer.expected_words(AUDIO)
    with pytest.raises(earshot.ConnectionFailed, match=NOBODY):
        earshot.connect([NOBODY, "127.0.0.1:2"])
    with pytest.raises(ValueError, match="got none"):
        earshot.connect([])


@pytest.mark.triton
def test_a_new_stream_goes_to_another_server(server: FakeRecognizer, proxy: TcpProxy) -> None:
    with earshot.connect([proxy.url, server.url]) as client:
        proxy.cut()
        for _ in range(2):
            with client.stream(sample_rate_hz=RATE_HZ) as stream:
                stream.send(AUDIO)
                assert texts(stream.finish().words) == fake_recognizer.expected_words(AUDIO)
            assert client.info.url == server.url
            assert not stream.resumptions


@pytest.mark.triton
def test_a_stream_goes_on_at_another_server(server: FakeRecognizer, proxy: TcpProxy) -> None:
    pieces = [AUDIO[:FIRST], chunk(SLOW), AUDIO[FIRST:]]
    with (
        in_the_middle_of_a_chunk(server, proxy.cut),
        earshot.connect([proxy.url, server.url], timeouts=replace(PATIENT, close_s=1)) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        for piece in pieces:
            stream.send(piece)
        transcript = stream.finish()
    assert texts(transcript.words) == fake_recognizer.expected_words(np.concatenate(pieces))
    assert [resumed.url for resumed in stream.resumptions] == [server.url]


@pytest.mark.triton
def test_the_command_says_what_happened(
    server: FakeRecognizer, proxy: TcpProxy, tmp_path: Path
) -> None:
    samples = np.concatenate([AUDIO[:FIRST], chunk(SLOW), AUDIO[FIRST:]])
    path = tmp_path / "speech.wav"
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")

    def cut() -> None:
        proxy.cut()
        proxy.listen()

    with in_the_middle_of_a_chunk(server, cut):
        command = ["transcribe", "--streaming", "--url", proxy.url, str(path)]
        shown = CliRunner().invoke(app, command)
    assert shown.stdout.split() == fake_recognizer.expected_words(samples)
    assert "trying for 60 s to carry the stream on" in shown.stderr
    assert f"earshot: {proxy.url} carries the stream on from 0.02 s, after " in shown.stderr


@pytest.mark.triton
def test_a_stream_does_not_go_on_at_a_server_with_other_chunks(
    server: FakeRecognizer, proxy: TcpProxy
) -> None:
    other = fake_recognizer.PARAMETERS | {"chunk_ms": "160", "chunk_samples": "2560"}
    timeouts = replace(PATIENT, close_s=1, resume_s=0.3)
    with (
        in_the_middle_of_a_chunk(server, proxy.cut),
        fake_triton(other) as another,
        earshot.connect([proxy.url, another.url], timeouts=timeouts) as client,
    ):
        stream = client.stream(sample_rate_hz=RATE_HZ)
        stream.send(AUDIO[:FIRST])
        with pytest.raises(earshot.StreamLost):
            stream.send(chunk(SLOW))
        assert not another.seen


def test_times_are_right_after_years_and_at_another_server() -> None:
    """The first server counts to the last frame that its answers hold, the next one from 0."""
    before = 2**31 - 5

    def hear_late(index: int) -> Tokens:
        return [(index, f" {index}", before + index)]

    def hear(index: int) -> Tokens:
        return [(index, f" {index}", index)]

    with (
        fake_triton(fake_recognizer.PARAMETERS) as first,
        fake_triton(fake_recognizer.PARAMETERS) as second,
        earshot.connect([first.url, second.url]) as client,
    ):
        first.hear, second.hear = hear_late, hear
        first.answer.set()
        second.answer.set()
        stream = client.stream(sample_rate_hz=RATE_HZ)
        session = stream._session  # pyright: ignore[reportPrivateUsage]
        # As after so many chunks, each of which is a frame.
        session._sent = session._history.answered = before  # pyright: ignore[reportPrivateUsage]
        stream.send(noise(FIRST + 4 * CHUNK_SAMPLES))
        first.lose["chunk"] = 1000
        stream.send(noise(4 * CHUNK_SAMPLES))
        transcript = stream.finish()
    assert [resumed.url for resumed in stream.resumptions] == [second.url]
    lead_ms = LEAD_SAMPLES * 1000 // RATE_HZ
    assert stream.resumptions[0].position_s == ((before + 5) * FRAME_MS - lead_ms) / 1000
    assert [word.start_ms for word in transcript.words] == [
        (before + index) * FRAME_MS for index in range(10)
    ]


def test_what_is_kept_does_not_grow_with_the_stream() -> None:
    info = ServerInfo("", "", "", "", "", RATE_HZ, 80, CHUNK_SAMPLES, 1024, 80, 1, 1000)
    history = History(info, CONTEXT_S)
    for index in range(10_000):
        token = earshot.Token(1, " a", index, -0.1)
        history.add(Chunk(bytes(4 * CHUNK_SAMPLES), CHUNK_SAMPLES, last=False), [token])
    assert len(history.chunks) == len(history.tokens) == CONTEXT_S / 0.08
    assert history.first_chunk == history.tokens[0].frame == 10_000 - len(history.chunks)
    nothing = History(info, 0.0)
    nothing.add(Chunk(b"", 0, last=False), [earshot.Token(1, " a", 0, -0.1)])
    assert (nothing.answered, len(nothing.chunks), len(nothing.tokens)) == (1, 0, 0)
