"""What a stream hands out, and when: results before an error, tags, bounded memory, clean exits."""

from __future__ import annotations

import asyncio
import pickle

import earshot
import pytest
from earshot import StreamOptions

from tests.support.fake_recognizer import CHUNK_SAMPLES, FIRST, PARAMETERS, RATE_HZ, noise, texts
from tests.support.fake_triton import OFFLINE, Tokens, fake_triton


def a_word_per_chunk(index: int) -> Tokens:
    if index == 3:
        raise RuntimeError("out of order")
    return [(1, f" {index}", index)]


def test_results_before_an_error_go_with_it() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        fake.hear = a_word_per_chunk
        with client.stream(sample_rate_hz=RATE_HZ) as stream:
            before = stream.send(noise(FIRST))
            with pytest.raises(earshot.ServerFailed) as caught:
                stream.send(noise(4 * CHUNK_SAMPLES))
    assert [result.text for result in (*before, *caught.value.results)] == [" 0", " 1", " 2"]
    assert caught.value.transcript is not None
    assert caught.value.transcript.text == " 0 1 2"


def test_results_before_an_error_go_with_it_under_asyncio() -> None:
    async def run() -> earshot.EarshotError:
        async with (
            earshot.connect_async(fake.url) as client,
            client.stream(sample_rate_hz=RATE_HZ) as stream,
        ):
            with pytest.raises(earshot.ServerFailed) as caught:
                await stream.send(noise(FIRST + 4 * CHUNK_SAMPLES))
            return caught.value

    with fake_triton(PARAMETERS) as fake:
        fake.answer.set()
        fake.hear = a_word_per_chunk
        error = asyncio.run(run())
    assert [result.text for result in error.results] == [" 0", " 1", " 2"]


def test_leaving_the_block_sends_the_last_partial_chunk() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        fake.hear = a_word_per_chunk
        with client.stream(sample_rate_hz=RATE_HZ) as stream:
            stream.send(noise(FIRST + 500))
        assert texts(stream.transcript.words) == ["0", "1"]
        assert fake.seen[-1] == "END answered"


def test_leaving_the_block_sends_the_last_partial_chunk_under_asyncio() -> None:
    async def run() -> earshot.Transcript:
        async with (
            earshot.connect_async(fake.url) as client,
            client.stream(sample_rate_hz=RATE_HZ) as stream,
        ):
            await stream.send(noise(FIRST + 500))
        return stream.transcript

    with fake_triton(PARAMETERS) as fake:
        fake.answer.set()
        fake.hear = a_word_per_chunk
        assert texts(asyncio.run(run()).words) == ["0", "1"]


def test_leaving_the_block_with_an_error_or_after_close_sends_no_more_audio() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        with client.stream(sample_rate_hz=RATE_HZ) as stream:
            stream.send(noise(FIRST + 500))
            stream.close()
        with pytest.raises(KeyError), client.stream(sample_rate_hz=RATE_HZ) as stream:
            stream.send(noise(FIRST + 500))
            raise KeyError
        client.close()
        # An END without audio each.
        assert list(fake.chunks.values()) == [2, 2]
        assert not stream.transcript.words


def test_an_unused_stream_is_left_without_a_word_to_the_server() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        with client.stream(sample_rate_hz=RATE_HZ):
            pass
        assert not fake.seen


def test_text_is_final_and_the_open_word_may_go_on() -> None:
    pieces = [" good", " mor", "ning", " all"]
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        fake.hear = lambda index: [(1, pieces[index], index)]
        with client.stream(sample_rate_hz=RATE_HZ) as stream:
            results = [*stream.send(noise(FIRST + 2 * CHUNK_SAMPLES)), *stream.end()]
    assert all(result.is_final for result in results)
    assert [result.open_word for result in results] == ["good", "mor", "morning", ""]


@pytest.mark.parametrize("chosen", ["order-7", ""])
def test_the_tag_of_a_stream_is_in_requests_results_and_errors(chosen: str) -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        fake.hear = a_word_per_chunk
        options = StreamOptions(tag=chosen)
        with client.stream(sample_rate_hz=RATE_HZ, options=options) as stream:
            [result] = stream.send(noise(FIRST))
            with pytest.raises(earshot.ServerFailed) as caught:
                stream.send(noise(4 * CHUNK_SAMPLES))
        client.close()
    tag = stream.tag
    assert tag == chosen or (not chosen and len(tag) == 16)
    assert result.tag == tag
    assert set(fake.ids) == {tag}
    assert {headers["x-request-id"] for headers in fake.headers} == {tag}
    assert caught.value.tag == chosen
    assert str(caught.value).endswith(f" (stream {tag})") == bool(chosen)


@pytest.mark.parametrize("tag", ["ordre-é", "two\nlines", "x" * 129])
def test_a_tag_that_no_header_can_carry_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="at most 128 printable ASCII characters"):
        StreamOptions(tag=tag)


def test_a_tag_does_not_choose_the_recognizer() -> None:
    with fake_triton(PARAMETERS, models={"asr_offline": OFFLINE}) as fake:
        with earshot.connect(fake.url) as client:
            client.transcribe(noise(9), sample_rate_hz=RATE_HZ, options=StreamOptions(tag="a"))
        assert fake.pieces
        assert not fake.seen


def test_memory_of_a_stream_without_transcript_is_bounded() -> None:
    with fake_triton(PARAMETERS) as fake, earshot.connect(fake.url) as client:
        fake.answer.set()
        fake.hear = lambda index: [(1, f" {index % 10}", index)]
        options = StreamOptions(keep_transcript=False, endpoint_ms=100)
        with client.stream(sample_rate_hz=RATE_HZ, options=options) as stream:
            sizes: list[int] = []
            words, lengths = 0, list[int]()
            for _ in range(8):
                # Steady noise, for the recognizer words and for the endpointer no speech.
                for result in stream.send(noise(200 * CHUNK_SAMPLES)):
                    words += len(result.words)
                    lengths += [len(utterance.words) for utterance in result.utterances]
                kept = stream._session  # pyright: ignore[reportPrivateUsage]
                sizes.append(len(pickle.dumps((kept._assembler, kept._segmenter))))  # pyright: ignore[reportPrivateUsage]
        assert words > 1590
        assert stream.transcript.duration_s == 8 * 200 * CHUNK_SAMPLES / RATE_HZ
        assert (stream.transcript.words, stream.transcript.text) == ((), "")
        assert max(sizes) < 30_000  # all words would be 53,000
        assert lengths == [500] * 3
