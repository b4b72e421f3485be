"""`finalize` and utterances, against a real Triton with the fake recognizer.

It answers every chunk of one frame (80 ms) with one word at that frame, so that words tell which
chunks were sent, and when.
"""

from __future__ import annotations

import asyncio
import zlib

import earshot
import numpy as np
import numpy.typing as npt
import pytest

from tests.support.fake_recognizer import (
    CHUNK_SAMPLES,
    FIRST,
    FRAME_MS,
    LEAD_SAMPLES,
    RATE_HZ,
    FakeRecognizer,
    noise,
    texts,
)

pytestmark = pytest.mark.triton

# The silence of `finalize`, at least 320 ms, takes up to five chunks of the fake recognizer.
FIVE = 5 * CHUNK_SAMPLES


def word(index: int, samples: npt.NDArray[np.float32]) -> str:
    """Return the fake recognizer's word for a full chunk."""
    assert samples.size == CHUNK_SAMPLES
    return f"{index}:{samples.size}:{zlib.crc32(samples.astype('<f4').tobytes()):08x}é"


def test_finalize_hands_out_what_was_said(client: earshot.Client) -> None:
    audio = noise(FIRST + 500)
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        stream.send(audio)
        results = stream.finalize()
        assert [word for result in results for word in result.words] == list(
            stream.transcript.words
        )
        rest = np.concatenate([audio[FIRST:], np.zeros(CHUNK_SAMPLES - 500, np.float32)])
        assert texts(results[0].words) == [stream.transcript.words[0].text]
        assert results[0].text.strip() == word(1, rest)
        assert stream.finalize() == [], "there is nothing new"
        stream.finish()


def test_the_times_after_finalize_are_those_of_the_audio(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        stream.send(noise(FIRST + 10 * CHUNK_SAMPLES + 500))
        before = len(stream.transcript.words)
        results = stream.finalize()
        said_ms = stream.transcript.words[-1].end_ms
        assert said_ms <= stream.transcript.duration_s * 1000 + FRAME_MS
        assert len(stream.transcript.words) == before + len(results)
        stream.send(noise(20 * CHUNK_SAMPLES))
        transcript = stream.finish()
    starts = [word.start_ms for word in transcript.words]
    assert starts == sorted(starts)
    # The audio after the silence fills the chunk that it begins as it did in the stream without.
    assert transcript.words[-1].end_ms == pytest.approx(
        transcript.duration_s * 1000, abs=FRAME_MS + LEAD_SAMPLES * 1000 / RATE_HZ
    )


def test_finalize_after_another_rate(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=48000) as stream:
        stream.send(noise(48000))
        stream.finalize()
        stream.send(noise(48000))
        stream.finalize()
        transcript = stream.finish()
    assert transcript.duration_s == 2
    assert transcript.words[-1].end_ms == pytest.approx(2000, abs=2 * FRAME_MS)


def test_finalize_of_nothing_sends_nothing(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        assert stream.finalize() == []
        stream.finish()


def test_finalize_needs_an_open_stream(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        stream.finish()
        with pytest.raises(earshot.StreamClosed):
            stream.finalize()


def test_finalize_under_asyncio(server: FakeRecognizer) -> None:
    async def run() -> list[earshot.ChunkResult]:
        async with (
            earshot.connect_async(server.url) as client,
            client.stream(sample_rate_hz=RATE_HZ) as stream,
        ):
            await stream.send(noise(FIRST + 500))
            results = await stream.finalize()
            await stream.finish()
            return results

    assert asyncio.run(run())[-1].words


def speech(seconds: float) -> npt.NDArray[np.float32]:
    """Return noise that is as loud as speech and, like it, has syllables."""
    samples = noise(round(seconds * RATE_HZ))
    syllables = np.abs(np.sin(2 * np.pi * 2 * np.arange(samples.size) / RATE_HZ))
    return (samples * np.maximum(syllables, 0.03)).astype(np.float32)


def silence(seconds: float) -> npt.NDArray[np.float32]:
    """Return digital zeros."""
    return np.zeros(round(seconds * RATE_HZ), np.float32)


CONVERSATION = np.concatenate([silence(0.5), speech(1), silence(1), speech(2), silence(0.2)])
OPTIONS = earshot.StreamOptions(endpoint_ms=300)


def test_a_stream_in_utterances(client: earshot.Client) -> None:
    results: list[earshot.ChunkResult] = []
    with client.stream(sample_rate_hz=RATE_HZ, options=OPTIONS) as stream:
        for start in range(0, CONVERSATION.size, 700):
            results += stream.send(CONVERSATION[start : start + 700])
        results += stream.end()
        transcript = stream.transcript
    utterances = [utterance for result in results for utterance in result.utterances]
    assert tuple(utterances) == transcript.utterances
    times_ms = [(utterance.start_ms, utterance.end_ms) for utterance in utterances]
    assert times_ms == [(520, 1500), (2500, 4500)], "the first window of all is taken for noise"
    assert [word for utterance in utterances for word in utterance.words] == list(transcript.words)
    assert " ".join(utterance.text for utterance in utterances) == transcript.text


def test_an_utterance_is_known_as_soon_as_the_silence_is_long_enough(
    client: earshot.Client,
) -> None:
    with client.stream(sample_rate_hz=RATE_HZ, options=OPTIONS) as stream:
        results = stream.send(CONVERSATION[: round(1.79 * RATE_HZ)])
        assert not any(result.utterances for result in results)
        *_, last = stream.send(silence(0.02))
        assert last.utterances
        stream.finish()


def test_finalize_ends_the_utterance(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ, options=OPTIONS) as stream:
        stream.send(CONVERSATION[: 1 * RATE_HZ])
        *_, last = stream.finalize()
        [utterance] = last.utterances
        assert (utterance.start_ms, utterance.end_ms) == (520, 1000)
        assert utterance.words == stream.transcript.words
        stream.finish()


def test_a_stream_without_the_option_has_no_utterances(client: earshot.Client) -> None:
    with client.stream(sample_rate_hz=RATE_HZ) as stream:
        stream.send(CONVERSATION)
        assert stream.finish().utterances == ()


def test_a_whole_file_in_utterances(client: earshot.Client) -> None:
    transcript = client.transcribe(CONVERSATION, sample_rate_hz=RATE_HZ, options=OPTIONS)
    assert len(transcript.utterances) == 2


def test_an_endpoint_must_be_longer_than_the_pauses_in_words() -> None:
    with pytest.raises(ValueError, match="at least 100, got 20"):
        earshot.StreamOptions(endpoint_ms=20)
