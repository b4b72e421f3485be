"""The blocking client against a real Triton."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import earshot
import numpy as np
import pytest
import soundfile
import tritonclient.grpc as tritonclient
from earshot._audio_file import TRUNCATED

from server import launch
from server.errors import TritonDied
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
from tests.support.launcher import wait_for

pytestmark = pytest.mark.triton


def test_what_arrives_is_what_was_sent(client: earshot.Client) -> None:
    audio = noise(20000)
    borders = [0, 1, 300, 5000, 5001, 17000, 20000]
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        results = [
            result for a, b in itertools.pairwise(borders) for result in stream.send(audio[a:b])
        ]
        results += stream.end()
        transcript = stream.finish()
    expected = fake_recognizer.expected_words(audio)
    assert texts(transcript.words) == expected
    assert "".join(result.text for result in results) == transcript.text == " ".join(expected)
    assert [word for result in results for word in result.words] == list(transcript.words)
    assert [result.index for result in results] == list(range(len(expected)))
    assert all(result.sent_s < result.received_s for result in results)
    assert all(a.received_s <= b.sent_s for a, b in itertools.pairwise(results))
    assert transcript.duration_s == 1.25


def test_words_have_times_and_confidences(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        stream.send(noise(3000))
        word = stream.finish().words[2]
    assert (word.start_ms, word.end_ms) == (160, 240)
    assert word.confidence == pytest.approx(np.exp(-1.0))


def test_text_comes_with_the_chunk_and_words_when_they_are_final(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        assert stream.send(noise(FIRST - 1)) == []
        (first,) = stream.send(noise(1))
        assert first.text.startswith("0:1280:")
        assert first.words == ()
        assert [token.id for token in first.tokens] == [10, 11]
        assert texts(stream.transcript.words) == [first.text]
        (second,) = stream.send(chunk())
        assert texts(second.words) == [first.text]
        stream.finish()


def test_an_end_on_a_chunk_border_and_an_empty_stream(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        stream.send(noise(FIRST))
        (last,) = stream.end()
        assert (last.text, len(last.words)) == ("", 1)
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        assert stream.finish().text == fake_recognizer.expected_words(noise(0))[0]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_files(client: earshot.Client, tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"noise.{suffix}"
    soundfile.write(path, np.stack([noise(40000)] * channels, axis=1), RATE_HZ)
    decoded, _ = soundfile.read(path, dtype="float32", always_2d=True)
    transcript = client.transcribe(path)
    assert len(transcript.words) == len(fake_recognizer.expected_words(decoded[:, 0]))
    assert transcript.duration_s == pytest.approx(2.5, abs=0.1)
    if suffix != "mp3":  # whose decoder adds dither, differently in each run
        assert texts(transcript.words) == fake_recognizer.expected_words(decoded.mean(axis=1))


def test_a_file_that_breaks_off(client: earshot.Client, tmp_path: Path) -> None:
    path = tmp_path / "half.flac"
    soundfile.write(path, noise(3 * RATE_HZ), RATE_HZ)
    path.write_bytes(path.read_bytes()[:50_000])
    transcript = client.transcribe(path)
    assert len(transcript.words) > 3
    assert transcript.warnings == (TRUNCATED,)


def test_send_all_and_stream_from(client: earshot.Client) -> None:
    audio = noise(10000)
    pieces = np.array_split(audio, 7)
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        text = "".join(result.text for result in stream.send_all(pieces))
        assert text == stream.transcript.text == stream.finish().text
    assert text.split() == fake_recognizer.expected_words(audio)
    results = client.stream_from(pieces, sample_rate_hz=RATE_HZ)
    assert "".join(result.text for result in results) == text


def test_a_long_piece_yields_text_chunk_by_chunk(
    client: earshot.Client, server: FakeRecognizer
) -> None:
    before = len(server.chunks())
    results = client.stream_from(
        [noise(100 * fake_recognizer.CHUNK_SAMPLES)], sample_rate_hz=RATE_HZ
    )
    next(results)
    assert len(server.chunks()) == before + 1
    results.close()


def test_a_stream_from_that_is_dropped_half_way(client: earshot.Client) -> None:
    results = client.stream_from(itertools.repeat(chunk()), sample_rate_hz=RATE_HZ)
    next(results)
    del results


def test_fifty_streams_at_once_stay_apart(client: earshot.Client) -> None:
    def run(seed: int) -> bool:
        audio = noise(8000 + 100 * seed, seed)
        with client.stream(sample_rate_hz=RATE_HZ) as stream:
            for piece in np.array_split(audio, 5):
                stream.send(piece)
            return texts(stream.finish().words) == fake_recognizer.expected_words(audio)

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(run, range(50)))


def test_unfit_audio_ends_nothing_but_keeps_the_text(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        (first,) = stream.send(noise(FIRST))
        with pytest.raises(earshot.InvalidAudio) as caught:
            stream.send(np.array([np.nan], np.float32))
        assert caught.value.transcript == stream.transcript
        assert stream.finish().text == first.text


def test_nothing_more_after_the_end(client: earshot.Client) -> None:
    stream = client.stream(sample_rate_hz=RATE_HZ)
    transcript = stream.finish()
    assert stream.finish() == transcript
    with pytest.raises(earshot.StreamClosed) as caught:
        stream.send(chunk())
    assert caught.value.transcript == transcript
    with pytest.raises(earshot.StreamClosed):
        stream.end()


# END reaches the server however a stream ends: the fixture `server` checks it after each test.


def test_end_on_an_error_in_the_block(client: earshot.Client) -> None:
    with pytest.raises(KeyError), client.stream(sample_rate_hz=RATE_HZ) as stream:
        stream.send(chunk())
        raise KeyError
    with pytest.raises(earshot.StreamClosed):
        stream.send(chunk())


def test_end_when_it_is_given_up(client: earshot.Client) -> None:
    stream = client.stream(sample_rate_hz=RATE_HZ)
    stream.send(chunk())
    stream.close()
    stream.close()
    with pytest.raises(earshot.StreamClosed):
        stream.finish()


def test_end_when_it_is_garbage(client: earshot.Client) -> None:
    client.stream(sample_rate_hz=RATE_HZ).send(chunk())


def test_end_when_the_client_closes(client: earshot.Client, server: FakeRecognizer) -> None:
    with earshot.connect(server.url, timeouts=PATIENT) as other:
        stream = other.stream(sample_rate_hz=RATE_HZ)
        stream.send(chunk())
    with pytest.raises(earshot.StreamClosed):
        stream.send(chunk())


@pytest.mark.parametrize("last_words", ["", "raise SystemExit(3)", "raise KeyError", "del client"])
def test_end_when_the_interpreter_exits(server: FakeRecognizer, last_words: str) -> None:
    script = f"""
        import earshot
        client = earshot.connect("{server.url}", timeouts=earshot.{PATIENT})
        stream = client.stream(sample_rate_hz=16000)
        stream.send(bytes(4000))
        {last_words}
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Exception ignored" not in ended.stderr
    wait_for(lambda: bool(server.chunks()[-1].end))


# One deadline per phase.


def test_first_chunk_deadline(server: FakeRecognizer) -> None:
    timeouts = replace(PATIENT, queue_s=0.1, chunk_s=0.1)
    with earshot.connect(server.url, timeouts=timeouts) as client:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        late = pytest.raises(earshot.ChunkTimeout, match=r"the first chunk within 0\.2 s")
        with server.holding(), late:
            stream.send(chunk(fake_recognizer.SLOW))


def test_chunk_deadline(server: FakeRecognizer) -> None:
    with earshot.connect(server.url, timeouts=replace(PATIENT, chunk_s=0.2)) as client:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        (first,) = stream.send(noise(FIRST))
        late = pytest.raises(earshot.ChunkTimeout, match=r"a chunk within 0\.2 s")
        with server.holding(), late as caught:
            stream.send(chunk(fake_recognizer.SLOW))
        assert caught.value.transcript is not None
        assert caught.value.transcript.text == first.text
        with pytest.raises(earshot.StreamClosed):
            stream.send(chunk())


def test_finish_deadline(server: FakeRecognizer) -> None:
    with earshot.connect(server.url, timeouts=replace(PATIENT, finish_s=0.2)) as client:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        (first,) = stream.send(noise(FIRST))
        stream.send(chunk(fake_recognizer.SLOW)[:100])
        with server.holding(), pytest.raises(earshot.ChunkTimeout) as caught:
            stream.finish()
        assert caught.value.transcript is not None
        assert caught.value.transcript.text == first.text


def test_queue_deadline_when_every_place_is_taken(server: FakeRecognizer) -> None:
    with earshot.connect(server.url, timeouts=replace(PATIENT, queue_s=1)) as client:
        streams = [client.stream(sample_rate_hz=RATE_HZ) for _ in range(client.info.max_streams)]
        for stream in streams:
            stream.send(noise(FIRST))
        with pytest.raises(earshot.ServerBusy, match="no free slot for the stream"):
            client.stream(sample_rate_hz=RATE_HZ).send(chunk())
        streams.pop().finish()
        client.stream(sample_rate_hz=RATE_HZ).send(chunk())


# What else can go wrong.


def test_refused(client: earshot.Client) -> None:
    stream = client.stream(sample_rate_hz=RATE_HZ)
    with pytest.raises(earshot.ServerBusy, match="all slots are taken"):
        stream.send(chunk(fake_recognizer.REFUSE))


def test_failure_on_the_server(client: earshot.Client) -> None:
    stream = client.stream(sample_rate_hz=RATE_HZ)
    (first,) = stream.send(noise(FIRST))
    with pytest.raises(earshot.ServerFailed, match="told to fail") as caught:
        stream.send(chunk(fake_recognizer.FAIL))
    assert caught.value.transcript is not None
    assert caught.value.transcript.text == first.text


def test_the_server_has_dropped_the_stream(server: FakeRecognizer) -> None:
    with earshot.connect(server.url, timeouts=replace(PATIENT, resume_s=0)) as client:
        stream = client.stream(sample_rate_hz=RATE_HZ)
        (first,) = stream.send(noise(FIRST))
        end_on_the_server(server, server.chunks()[-1].id)
        with pytest.raises(earshot.StreamLost, match="unless `keep_alive` keeps them") as caught:
            stream.send(chunk())
        assert caught.value.transcript is not None
        assert caught.value.transcript.text == first.text


def end_on_the_server(server: FakeRecognizer, stream_id: int) -> None:
    """End a stream on the server, as it does with an idle one."""
    audio = tritonclient.InferInput("AUDIO", [1, fake_recognizer.CHUNK_SAMPLES], "FP32")
    audio.set_data_from_numpy(np.zeros((1, fake_recognizer.CHUNK_SAMPLES), np.float32))
    length = tritonclient.InferInput("AUDIO_LENGTH", [1, 1], "INT32")
    length.set_data_from_numpy(np.zeros((1, 1), np.int32))
    with tritonclient.InferenceServerClient(server.url) as other:
        other.infer("asr_streaming", [audio, length], sequence_id=stream_id, sequence_end=True)


def test_the_server_dies(tmp_path: Path) -> None:
    models = fake_recognizer.write_repository(tmp_path / "models", tmp_path / "log")
    with (
        pytest.raises(TritonDied),
        launch.running(models) as triton,
        earshot.connect(triton.grpc_url, timeouts=earshot.Timeouts(resume_s=0)) as client,
    ):
        assert client.is_ready()
        stream = client.stream(sample_rate_hz=RATE_HZ)
        (first,) = stream.send(noise(FIRST))
        os.kill(triton.process.pid, signal.SIGKILL)
        triton.process.wait()
        with pytest.raises(earshot.StreamLost) as caught:
            stream.send(chunk())
        assert caught.value.transcript is not None
        assert caught.value.transcript.text == first.text
        with pytest.raises(earshot.ConnectionFailed):
            client.stream(sample_rate_hz=RATE_HZ).send(chunk())
        with pytest.raises(earshot.ConnectionFailed):
            client.is_ready()


def test_it_runs_under_gevent(client: earshot.Client, server: FakeRecognizer) -> None:
    script = f"""
        from gevent import monkey
        monkey.patch_all()
        import grpc.experimental.gevent
        grpc.experimental.gevent.init_gevent()
        import gevent, time, earshot

        def run():
            with client.stream(sample_rate_hz=16000) as stream:
                stream.send(bytes(12000))
                return len(stream.finish().words)

        with earshot.connect("{server.url}", timeouts=earshot.{PATIENT}) as client:
            jobs = [gevent.spawn(run) for _ in range(20)]
            abandoned = client.stream(sample_rate_hz=16000)
            abandoned.send(bytes(4000))
            print([job.get() for job in jobs])
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.stdout == f"{[6] * 20}\n", ended.stderr
