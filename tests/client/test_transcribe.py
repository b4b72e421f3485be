"""Whole files: pieces, buckets, retries, failed spans, and which recognizer is used."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import earshot
import grpc
import numpy as np
import pytest
import soundfile
from earshot import _recognition

from tests.support import fake_recognizer, spoken_numbers
from tests.support.fake_triton import OFFLINE, FakeTriton, ReceivedPiece, Tokens, fake_triton
from tests.support.spoken_numbers import FRAME, RATE_HZ, audio, recognize_numbers, script, words

Transcribe = Callable[..., earshot.Transcript]


def transcribe_sync(url: str, source: Any, timeouts: Any = None, **arguments: Any):
    with earshot.connect(url, timeouts=timeouts) as client:
        return client.transcribe(source, **arguments)


def transcribe_async(url: str, source: Any, timeouts: Any = None, **arguments: Any):
    async def run() -> earshot.Transcript:
        async with earshot.connect_async(url, timeouts=timeouts) as client:
            return await client.transcribe(source, **arguments)

    return asyncio.run(run())


both_clients = pytest.mark.parametrize("transcribe", [transcribe_sync, transcribe_async])


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with fake_triton(None, models={"asr_offline": OFFLINE}) as fake:
        fake.recognize = recognize_numbers
        yield fake


@pytest.fixture(autouse=True)
def short_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recognition, "FIRST_DELAY_S", 0.01)


def write(path: Path, frames: spoken_numbers.Script) -> Path:
    with soundfile.SoundFile(path, "w", RATE_HZ, 1) as file:
        for block in spoken_numbers.blocks(frames):
            file.write(block)
    return path


def recognized_words(transcript: earshot.Transcript) -> list[tuple[str, int]]:
    return [(word.text, word.start_ms // 80) for word in transcript.words]


@both_clients
@pytest.mark.parametrize(("seconds", "bucket_s"), [(0.5, 2), (2, 2), (2.1, 4), (14, 15), (30, 30)])
def test_a_short_file_is_one_piece_in_the_smallest_bucket(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path, seconds: float, bucket_s: int
) -> None:
    frames = script(seconds, None)[: int(seconds * RATE_HZ / FRAME)]
    transcript = transcribe(fake.url, write(tmp_path / "a.wav", frames))
    assert fake.pieces == [(len(frames) * FRAME, bucket_s * RATE_HZ)]
    assert recognized_words(transcript) == words(frames)
    assert transcript.text == " ".join(text for text, _ in words(frames))
    assert transcript.duration_s == len(frames) * FRAME / RATE_HZ
    assert transcript.words[0].confidence == pytest.approx(np.exp(-0.25))


@both_clients
@pytest.mark.parametrize("pause_every", [20, None], ids=["pauses", "no pauses"])
def test_a_long_file_has_every_word_once_at_its_time(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path, pause_every: int | None
) -> None:
    frames = script(300, pause_every)
    transcript = transcribe(fake.url, write(tmp_path / "a.wav", frames))
    assert len(fake.pieces) >= 10
    assert (sum(valid for valid, _ in fake.pieces) == len(frames) * FRAME) == bool(pause_every)
    assert recognized_words(transcript) == words(frames)
    assert transcript.text == " ".join(text for text, _ in words(frames))
    assert transcript.failed == ()


@both_clients
def test_samples_in_memory(fake: FakeTriton, transcribe: Transcribe) -> None:
    frames = script(40, 20)
    samples = (audio(frames) * 32768).astype(np.int16)
    stereo = np.stack([samples, samples], axis=1)
    for pcm, channels in ((samples, 1), (samples.tobytes(), 1), (stereo, 2)):
        transcript = transcribe(fake.url, pcm, sample_rate_hz=RATE_HZ, channels=channels)
        assert recognized_words(transcript) == words(frames)


@both_clients
def test_no_samples_are_no_text(fake: FakeTriton, transcribe: Transcribe) -> None:
    transcript = transcribe(fake.url, b"", sample_rate_hz=RATE_HZ)
    assert (transcript.text, transcript.duration_s, fake.pieces) == ("", 0.0, [])


def test_another_rate_is_converted(fake: FakeTriton, tmp_path: Path) -> None:
    frames = script(65, 20)
    soundfile.write(tmp_path / "a.wav", np.repeat(audio(frames), 3), 3 * RATE_HZ)
    with earshot.connect(fake.url) as client:
        transcript = client.transcribe(tmp_path / "a.wav")
    assert [text for text, _ in recognized_words(transcript)] == [text for text, _ in words(frames)]


@both_clients
def test_samples_need_a_rate_and_files_have_one(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path
) -> None:
    with pytest.raises(earshot.InvalidAudio, match="sample_rate_hz"):
        transcribe(fake.url, bytes(100))
    with pytest.raises(ValueError, match="leave the argument out"):
        transcribe(fake.url, write(tmp_path / "a.wav", script(1, None)), sample_rate_hz=8000)


class Failing:
    """Fails the pieces whose second number is one of `numbers`, `times` times each."""

    def __init__(self, code: grpc.StatusCode, numbers: set[str], times: int) -> None:
        self.tries: dict[str, int] = {}
        self._code, self._numbers, self._times = code, numbers, times
        self._lock = threading.Lock()

    def __call__(self, piece: ReceivedPiece) -> Tokens:
        tokens = recognize_numbers(piece)
        second = tokens[1][1]  # the first may be cut
        with self._lock:
            tries = self.tries[second] = self.tries.get(second, 0) + 1
        if second in self._numbers and tries <= self._times:
            piece.context.abort(self._code, "out of order")
        return tokens


def second_numbers(fake: FakeTriton, path: Path) -> list[str]:
    """Return the second number of each piece, in order."""
    watching = Failing(grpc.StatusCode.INTERNAL, set(), 0)
    fake.recognize = watching
    transcribe_sync(fake.url, path, at_once=1)
    return list(watching.tries)


@both_clients
def test_what_fails_for_a_moment_is_delivered(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path
) -> None:
    frames = script(150, 20)
    path = write(tmp_path / "a.wav", frames)
    second = second_numbers(fake, path)
    fake.recognize = failing = Failing(grpc.StatusCode.UNAVAILABLE, {second[0], second[3]}, 3)
    transcript = transcribe(fake.url, path)
    assert recognized_words(transcript) == words(frames)
    assert transcript.failed == ()
    assert [failing.tries[number] for number in second] == [4, 1, 1, 4, *[1] * len(second[4:])]


@both_clients
@pytest.mark.parametrize(
    ("code", "tries"),
    [(grpc.StatusCode.UNAVAILABLE, 4), (grpc.StatusCode.INVALID_ARGUMENT, 1)],
    ids=["transient", "final"],
)
def test_what_stays_failed_is_reported_and_the_rest_delivered(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path, code: grpc.StatusCode, tries: int
) -> None:
    frames = script(150, 20)
    path = write(tmp_path / "a.wav", frames)
    second = second_numbers(fake, path)
    fake.recognize = failing = Failing(code, {second[2]}, 99)
    transcript = transcribe(fake.url, path)
    [span] = transcript.failed
    assert "out of order" in span.reason
    assert failing.tries[second[2]] == tries
    start, end = span.start_s * RATE_HZ / FRAME, span.end_s * RATE_HZ / FRAME
    assert recognized_words(transcript) == [w for w in words(frames) if not start <= w[1] < end]
    assert 10 < span.end_s - span.start_s <= 30


@both_clients
def test_overlaps_with_a_failed_piece_are_not_lost(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path
) -> None:
    frames = script(100, None)
    path = write(tmp_path / "a.wav", frames)
    second = second_numbers(fake, path)
    fake.recognize = Failing(grpc.StatusCode.INVALID_ARGUMENT, {second[1]}, 99)
    transcript = transcribe(fake.url, path)
    [span] = transcript.failed
    assert (span.start_s, span.end_s) == (30.0, 56.0)
    kept = [w for w in words(frames) if w[1] < 375 or w[1] >= 700]
    assert [w for w in recognized_words(transcript) if w[0] != spoken_numbers.CUT] == kept


@both_clients
def test_when_everything_fails_it_is_an_error(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path
) -> None:
    def refuse(piece: ReceivedPiece) -> Tokens:
        piece.context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return []

    fake.recognize = refuse
    with pytest.raises(earshot.ServerBusy, match="accepts no more pieces now: full"):
        transcribe(fake.url, write(tmp_path / "a.wav", script(70, 20)))


@both_clients
def test_a_piece_has_a_deadline(fake: FakeTriton, transcribe: Transcribe, tmp_path: Path) -> None:
    released = threading.Event()

    def hang(piece: ReceivedPiece) -> Tokens:
        released.wait()
        return []

    fake.recognize = hang
    timeouts = earshot.Timeouts(piece_s=0.2)
    try:
        with pytest.raises(earshot.ChunkTimeout, match=r"a piece within 0\.2 s"):
            transcribe(fake.url, write(tmp_path / "a.wav", script(1, None)), timeouts)
    finally:
        released.set()


@both_clients
def test_a_reply_that_breaks_the_contract_is_a_failure(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path
) -> None:
    fake.recognize = lambda piece: [(1, "text", 0)]
    path = write(tmp_path / "a.wav", script(1, None))
    assert transcribe(fake.url, path).text == "text"
    fake.recognize = lambda piece: [(2**31, "id too large", 0)]
    with pytest.raises(earshot.ServerFailed):
        transcribe(fake.url, path)


@both_clients
def test_so_many_pieces_are_under_way_and_no_more(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path
) -> None:
    counts = {"arrived": 0, "under way": 0, "most": 0}
    lock = threading.Lock()
    meet = threading.Barrier(3)

    def meeting(piece: ReceivedPiece) -> Tokens:
        with lock:
            counts["arrived"] += 1
            counts["under way"] += 1
            counts["most"] = max(counts["most"], counts["under way"])
            among_the_first = counts["arrived"] <= 3
        if among_the_first:
            meet.wait(timeout=60)
        tokens = recognize_numbers(piece)
        with lock:
            counts["under way"] -= 1
        return tokens

    fake.recognize = meeting
    progress: list[float] = []
    path = write(tmp_path / "a.wav", script(300, 20))
    transcript = transcribe(fake.url, path, at_once=3, on_progress=progress.append)
    assert counts["most"] == 3
    assert len(progress) == counts["arrived"] >= 10
    assert progress == sorted(progress)
    assert progress[-1] == pytest.approx(transcript.duration_s)


@both_clients
def test_none_at_once_is_refused(fake: FakeTriton, transcribe: Transcribe) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        transcribe(fake.url, bytes(100), sample_rate_hz=RATE_HZ, at_once=0)


@both_clients
def test_audio_that_turns_bad_keeps_what_came_before(
    fake: FakeTriton, transcribe: Transcribe, tmp_path: Path
) -> None:
    frames = script(100, 20)
    samples = audio(frames)
    samples[80 * RATE_HZ] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    with pytest.raises(earshot.InvalidAudio, match="nan") as caught:
        transcribe(fake.url, tmp_path / "a.wav")
    assert caught.value.transcript is not None
    before = recognized_words(caught.value.transcript)
    assert len(before) > 100
    assert before == words(frames)[: len(before)]


class Blocks:
    """An `AudioSource` that an application might write."""

    sample_rate_hz = float(RATE_HZ)
    channels = 1

    def __init__(self, frames: spoken_numbers.Script) -> None:
        self._frames = frames

    def blocks(self) -> Iterator[np.ndarray]:
        yield from spoken_numbers.blocks(self._frames)


@both_clients
def test_a_source_of_blocks(fake: FakeTriton, transcribe: Transcribe) -> None:
    frames = script(40, 20)
    assert recognized_words(transcribe(fake.url, Blocks(frames))) == words(frames)
    with pytest.raises(ValueError, match="leave the argument out"):
        transcribe(fake.url, Blocks(frames), sample_rate_hz=8000)


@both_clients
def test_a_server_that_only_streams_gets_a_stream(transcribe: Transcribe, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", script(1, None))
    progress: list[float] = []
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        fake.answer.set()
        transcript = transcribe(fake.url, path, on_progress=progress.append)
        samples = transcribe(fake.url, bytes(3 * RATE_HZ), sample_rate_hz=RATE_HZ)
    assert fake.seen.count("END answered") == 2
    assert fake.pieces == []
    assert progress[-1] == transcript.duration_s > 1
    assert samples.duration_s == 1.5


@both_clients
def test_streaming_on_request(transcribe: Transcribe, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", script(1, None))
    with fake_triton(fake_recognizer.PARAMETERS, models={"asr_offline": OFFLINE}) as fake:
        fake.answer.set()
        transcribe(fake.url, path)
        assert (len(fake.pieces), fake.seen) == (1, [])
        transcribe(fake.url, path, streaming=True)
        assert (len(fake.pieces), fake.seen[-1]) == (1, "END answered")


@both_clients
def test_streaming_needs_a_streaming_recognizer(fake: FakeTriton, transcribe: Transcribe) -> None:
    with pytest.raises(earshot.UnsupportedServer, match="no model asr_streaming: send whole"):
        transcribe(fake.url, bytes(100), sample_rate_hz=RATE_HZ, streaming=True)


def recognize_sync(url: str, source: Any, **arguments: Any) -> earshot.Transcript:
    with earshot.connect(url) as client:
        return client.recognize(source, **arguments)


def recognize_async(url: str, source: Any, **arguments: Any) -> earshot.Transcript:
    async def run() -> earshot.Transcript:
        async with earshot.connect_async(url) as client:
            return await client.recognize(source, **arguments)

    return asyncio.run(run())


@pytest.mark.parametrize("recognize", [recognize_sync, recognize_async])
def test_the_old_name_works_and_warns(fake: FakeTriton, recognize: Transcribe) -> None:
    frames = script(5, None)
    with pytest.warns(DeprecationWarning, match="call transcribe") as caught:
        transcript = recognize(fake.url, audio(frames), sample_rate_hz=RATE_HZ, at_once=2)
    assert recognized_words(transcript) == words(frames)
    assert caught[0].filename == __file__
    with (
        fake_triton(fake_recognizer.PARAMETERS) as streaming,
        pytest.warns(DeprecationWarning),
        pytest.raises(earshot.UnsupportedServer, match="no model asr_offline: stream"),
    ):
        recognize(streaming.url, bytes(100), sample_rate_hz=RATE_HZ)


def test_a_server_that_does_not_stream(fake: FakeTriton) -> None:
    with earshot.connect(fake.url) as client:
        assert client.offline is not None
        assert client.offline.buckets_ms == (2000, 4000, 8000, 15000, 30000)
        with pytest.raises(earshot.UnsupportedServer, match="no model asr_streaming: send whole"):
            client.stream(sample_rate_hz=16000)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("buckets_ms", "", "whole number"),
        ("buckets_ms", "2000,1000", "must ascend"),
        ("contract_version", "3", "contract version 3, this client 1 and 2"),
        ("contract_version", "2", "no parameter 'adapter'"),
        ("frame_ms", "0", "at least 1"),
    ],
)
def test_offline_parameters_that_make_no_sense(name: str, value: str, message: str) -> None:
    with (
        fake_triton(None, models={"asr_offline": OFFLINE | {name: value}}) as fake,
        pytest.raises(earshot.UnsupportedServer, match=message),
        earshot.connect(fake.url),
    ):
        pass


@pytest.mark.parametrize("client", ["sync", "async"])
def test_ctrl_c_while_the_server_hangs(fake: FakeTriton, tmp_path: Path, client: str) -> None:
    arrived, released = threading.Event(), threading.Event()

    def hang(piece: ReceivedPiece) -> Tokens:
        arrived.set()
        released.wait()
        return []

    fake.recognize = hang
    path = write(tmp_path / "a.wav", script(400, 20))
    timeouts = earshot.Timeouts(piece_s=600)
    code = textwrap.dedent(f"""
        import asyncio, earshot
        async def main():
            async with earshot.connect_async({fake.url!r}, timeouts=earshot.{timeouts}) as client:
                await client.transcribe({str(path)!r})
        if {client == "async"}:
            asyncio.run(main())
        with earshot.connect({fake.url!r}, timeouts=earshot.{timeouts}) as client:
            client.transcribe({str(path)!r})
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        assert arrived.wait(60)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)  # a piece has 600 s
        assert stderr.rstrip().endswith("KeyboardInterrupt")
    finally:
        released.set()


def test_memory_stays_flat_for_an_hour_of_audio(fake: FakeTriton, tmp_path: Path) -> None:
    """An hour takes hardly more memory than eight minutes."""
    short, long = 480, 3600
    peaks = {
        seconds: peak_mib(fake.url, write(tmp_path / f"{seconds}.wav", script(seconds, 20)))
        for seconds in (short, long)
    }
    hour_mib = long * RATE_HZ * 4 / 2**20
    assert peaks[long] - peaks[short] < hour_mib / 8, peaks


def peak_mib(url: str, path: Path) -> float:
    """Return the peak memory of a client that transcribes `path`."""
    code = f"""
import earshot, resource
with earshot.connect({url!r}) as client:
    print(len(client.transcribe({str(path)!r}).words))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    count = int(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert count == len(words(script(int(path.stem), 20)))
    return usage.ru_maxrss / 1024
