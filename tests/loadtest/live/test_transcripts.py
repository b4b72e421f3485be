"""Streams under load are compared with the reference of the same audio."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import MagicMock

import numpy as np
import pytest
from earshot import ChunkResult, Token

from loadtest.audio.recordings import load_clips
from loadtest.audio.scripts import Script, write_scripts
from loadtest.live.samples import FinishedStream
from loadtest.live.transcripts import (
    Reference,
    TranscriptComparer,
    allowed_change,
    record_reference,
)
from loadtest.options import MIN_STREAM_S, RECORDINGS, LoadOptions

AUDIO = np.zeros(16_000, dtype=np.float32)
SCRIPTS = [Script(AUDIO, "alpha bravo charlie delta"), Script(AUDIO, None)]
REFERENCES = [
    Reference([(1,), (2,), (), (3, 4)], ["alpha", " bravo", "", " charlie delta"]),
    Reference([(9,), (8,), (7,)], ["india", " hotel", " golf"]),
]


def compare(stream: FinishedStream, precision: str = "fp32"):
    allowed = allowed_change(LoadOptions(), precision)
    return TranscriptComparer(SCRIPTS, REFERENCES, allowed).compare([stream])


def test_a_stream_cut_short_is_compared_as_far_as_it_went() -> None:
    assert compare(FinishedStream(0, 2, False, (1, 2), "alpha bravo")).different == 0
    assert compare(FinishedStream(0, 2, False, (1,), "alpha")).different == 1


def test_a_whole_script_is_compared_to_its_end_and_scored() -> None:
    right = compare(FinishedStream(0, 3, True, (1, 2, 3, 4), "alpha bravo charlie delta"))
    assert (right.different, right.wer) == (0, 0.0)
    wrong = compare(FinishedStream(0, 3, True, (1, 2, 3), "alpha bravo charlie"))
    assert (wrong.different, wrong.wer) == (1, 0.25)


def test_a_script_of_unknown_words_is_not_scored() -> None:
    assert compare(FinishedStream(1, 2, True, (9, 8, 7), "india hotel golf")).wer is None


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_text_of_another_stream_is_caught(precision: str) -> None:
    swapped = FinishedStream(0, 3, False, (9, 8, 7), "india hotel golf")
    comparison = compare(swapped, precision)
    assert comparison.different == 1
    assert "india" in comparison.example


def test_the_right_tokens_with_another_text_are_caught() -> None:
    assert compare(FinishedStream(0, 2, False, (1, 2), "india hotel"), "int8").different == 1


def test_below_float32_a_changed_token_is_counted_but_allowed() -> None:
    near = FinishedStream(0, 4, True, (1, 2, 3, 5), "alpha bravo charlie echo")
    assert compare(near, "int8").different == 0
    assert compare(near, "int8").changed == 1
    assert compare(near, "fp32").different == 1


def test_a_changed_token_of_a_short_stream_is_allowed_below_float32() -> None:
    near = FinishedStream(0, 2, False, (1, 5), "alpha echo")
    assert compare(near, "int8").different == 0
    assert compare(near, "fp32").different == 1


def test_the_allowed_change_can_be_chosen() -> None:
    assert allowed_change(LoadOptions(), "fp32") == 0.0
    assert allowed_change(LoadOptions(), "fp16") == 0.25
    assert allowed_change(LoadOptions(allowed_change=0.6), "fp32") == 0.6


@pytest.mark.parametrize("vocabulary", [32, 1024])
def test_swapped_streams_of_random_tokens_are_found_if_most_tokens_may_differ(
    vocabulary: int,
) -> None:
    """Random models need 0.8: a rounded sum changes half of a stream, another stream all of it."""
    random = np.random.default_rng(0)
    outputs = [tuple(random.integers(0, vocabulary, 80).tolist()) for _ in range(20)]
    texts = [" ".join(map(str, tokens)) for tokens in outputs]
    references = [Reference([t], [x]) for t, x in zip(outputs, texts, strict=True)]
    scripts = [Script(AUDIO, None)] * len(outputs)
    comparer = TranscriptComparer(scripts, references, 0.8)
    swapped = [FinishedStream(i, 1, True, outputs[i - 1], texts[i - 1]) for i in range(20)]
    assert comparer.compare(swapped).different == 20
    halves = [FinishedStream(i, 1, True, outputs[i][:40], texts[i][:99]) for i in range(20)]
    found = comparer.compare(halves)
    assert (found.different, found.changed) == (0, 20)
    assert found.largest_change == 0.5
    assert comparer.compare([*halves, swapped[0]]).largest_change > 0.8


def test_one_or_two_changed_tokens_are_no_large_change() -> None:
    comparison = compare(FinishedStream(0, 2, False, (5, 6), "echo foxtrot"), "fp32")
    assert (comparison.different, comparison.largest_change) == (1, 0.0)


def test_most_swapped_streams_of_the_bundled_recordings_are_found() -> None:
    """Scripts share recordings, so a swapped stream may have half of its own tokens by chance."""
    random = np.random.default_rng(0)
    clips = load_clips(RECORDINGS)
    # Tokens of a clip, four a second, stand in its samples.
    spoken = [random.integers(1, 64, len(clip.samples) // 4000) for clip in clips]
    scripts = write_scripts(
        [
            replace(clip, samples=np.repeat(tokens, 4000).astype(np.float32))
            for clip, tokens in zip(clips, spoken, strict=True)
        ],
        MIN_STREAM_S,
    )
    outputs = [tuple(script.samples[::4000].astype(int).tolist()) for script in scripts]
    references = [Reference([tokens], [str(tokens)]) for tokens in outputs]
    found = {0.25: 0, 0.8: 0}
    for allowed in found:
        comparer = TranscriptComparer(scripts, references, allowed)
        for _ in range(1000):
            own, other, later = random.integers(0, len(scripts), 3)
            ahead = outputs[other][random.integers(0, 80) :] + outputs[later]
            got = ahead[: len(outputs[own])]
            stream = FinishedStream(int(own), 1, True, got, str(got))
            found[allowed] += comparer.compare([stream]).different
    assert found[0.25] > 850
    assert found[0.8] > 500


def test_a_server_without_output_is_refused() -> None:
    def results(*texts: str) -> list[ChunkResult]:
        tokens = tuple(Token(1, text, 0, 0.0) for text in texts)
        return [ChunkResult(0, "".join(texts), tokens, (), 0.0, 0.0)]

    client = MagicMock()
    stream = client.stream.return_value.__enter__.return_value
    stream.send.return_value, stream.end.return_value = results(), results()
    with pytest.raises(ValueError, match="got no word for 2 scripts"):
        record_reference(client, SCRIPTS, lambda done: None)
    stream.end.return_value = results("word")
    assert record_reference(client, SCRIPTS, lambda done: None)[0].texts == ["", "word"]
