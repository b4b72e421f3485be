"""Streams under load are compared with the quiet stream of the same audio."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from earshot import ChunkResult, Token

from loadtest.samples import Spoken
from loadtest.speech import Script, load_recordings, write_scripts
from loadtest.transcripts import Comparer, Quiet, hear_quietly

AUDIO = np.zeros(16_000, dtype=np.float32)
SCRIPTS = [Script(AUDIO, "alpha bravo charlie delta"), Script(AUDIO, None)]
QUIET = [
    Quiet([(1,), (2,), (), (3, 4)], ["alpha", " bravo", "", " charlie delta"]),
    Quiet([(9,), (8,), (7,)], ["india", " hotel", " golf"]),
]


def compare(spoken: Spoken, precision: str = "fp32"):
    return Comparer(SCRIPTS, QUIET, precision).compare([spoken])


def test_a_stream_cut_short_is_compared_as_far_as_it_went() -> None:
    assert compare(Spoken(0, 2, False, (1, 2), "alpha bravo")).different == 0
    assert compare(Spoken(0, 2, False, (1,), "alpha")).different == 1


def test_a_whole_script_is_compared_to_its_end_and_scored() -> None:
    right = compare(Spoken(0, 3, True, (1, 2, 3, 4), "alpha bravo charlie delta"))
    assert (right.different, right.wer) == (0, 0.0)
    wrong = compare(Spoken(0, 3, True, (1, 2, 3), "alpha bravo charlie"))
    assert (wrong.different, wrong.wer) == (1, 0.25)


def test_a_script_of_unknown_words_is_not_scored() -> None:
    assert compare(Spoken(1, 2, True, (9, 8, 7), "india hotel golf")).wer is None


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_text_of_another_stream_is_caught(precision: str) -> None:
    swapped = Spoken(0, 3, False, (9, 8, 7), "india hotel golf")
    comparison = compare(swapped, precision)
    assert comparison.different == 1
    assert "india" in comparison.example


def test_the_right_tokens_with_another_text_are_caught() -> None:
    assert compare(Spoken(0, 2, False, (1, 2), "india hotel"), "int8").different == 1


def test_below_float32_a_changed_token_is_counted_but_allowed() -> None:
    near = Spoken(0, 4, True, (1, 2, 3, 5), "alpha bravo charlie echo")
    assert compare(near, "int8").different == 0
    assert compare(near, "int8").changed == 1
    assert compare(near, "fp32").different == 1


def test_a_changed_token_of_a_short_stream_is_allowed_below_float32() -> None:
    near = Spoken(0, 2, False, (1, 5), "alpha echo")
    assert compare(near, "int8").different == 0
    assert compare(near, "fp32").different == 1


def test_a_server_that_hears_nothing_is_nothing_to_compare_with() -> None:
    def results(*tokens: str) -> list[ChunkResult]:
        heard = tuple(Token(1, text, 0, 0.0) for text in tokens)
        return [ChunkResult(0, "".join(tokens), heard, (), 0.0, 0.0)]

    client = MagicMock()
    stream = client.stream.return_value.__enter__.return_value
    stream.send.return_value, stream.end.return_value = results(), results()
    with pytest.raises(ValueError, match="hears no word in 2 scripts"):
        hear_quietly(client, SCRIPTS, lambda done: None)
    stream.end.return_value = results("word")
    assert hear_quietly(client, SCRIPTS, lambda done: None)[0].texts == ["", "word"]


def test_scripts_are_whole_recordings_from_different_places() -> None:
    recordings = load_recordings()
    scripts = write_scripts(recordings, talk_s=8.0)
    assert len(scripts) == len(recordings)
    for script, recording in zip(scripts, recordings, strict=True):
        assert len(script.samples) >= 8 * 16_000
        assert recording.said is not None
        assert script.said is not None
        assert script.said.startswith(recording.said)
        np.testing.assert_array_equal(script.samples[: len(recording.samples)], recording.samples)


def test_a_manifest_without_transcripts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_text("file\tseconds\na.wav\t1\n")
    with pytest.raises(ValueError, match="has no column transcript"):
        load_recordings(tmp_path)
