"""Subtitles keep to the rules for any words."""

from __future__ import annotations

import itertools
import re

from earshot import Word
from earshot._cli.subtitles import (
    LINE_CHARACTERS,
    LINES,
    LONGEST_CUE_MS,
    cues,
    srt,
    vtt,
)
from hypothesis import given
from hypothesis import strategies as st


def words(text: str, start_ms: int = 0, each_ms: int = 300) -> list[Word]:
    return [
        Word(word, start_ms + each_ms * i, start_ms + each_ms * (i + 1), 0.9)
        for i, word in enumerate(text.split())
    ]


def test_srt() -> None:
    spoken = [*words("Ask not", 3_599_000), *words("what your country", 3_604_000)]
    assert srt(spoken) == (
        "1\n00:59:59,000 --> 01:00:00,000\nAsk not\n\n"
        "2\n01:00:04,000 --> 01:00:05,000\nwhat your country\n"
    )


def test_vtt_escapes() -> None:
    assert vtt(words("a<b &", 80)) == ("WEBVTT\n\n00:00:00.080 --> 00:00:01.080\na&lt;b &amp;\n")


def test_nothing_spoken() -> None:
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n"


def test_a_sentence_ends_a_cue() -> None:
    assert [cue.lines for cue in cues(words("Yes. No? Well then"))] == [
        ("Yes.",),
        ("No?",),
        ("Well then",),
    ]


def test_a_sentence_that_ends_where_it_began_shares_its_cue() -> None:
    spoken = [Word("Yes.", 80, 160, 0.9), Word("Well", 80, 160, 0.9), Word("then", 240, 320, 0.9)]
    [cue] = cues(spoken)
    assert (cue.start_ms, cue.end_ms, cue.lines) == (80, 1080, ("Yes. Well then",))


def test_a_pause_ends_a_cue() -> None:
    spoken = [*words("one two"), *words("three", 600 + 800)]
    assert [cue.lines for cue in cues(spoken)] == [("one two",), ("three",)]


def test_a_word_with_a_pause_in_it_is_not_torn_apart() -> None:
    spoken = [
        Word("Are", 0, 400, 0.9),
        Word("you", 400, 600, 0.9),
        Word("there?", 700, 21000, 0.9),
        Word("Yes", 21000, 21400, 0.9),
    ]
    assert srt(spoken) == (
        "1\n00:00:00,000 --> 00:00:03,200\nAre you there?\n\n"
        "2\n00:00:21,000 --> 00:00:22,000\nYes\n"
    )


def test_two_lines_are_filled_before_the_next_cue() -> None:
    spoken = words("twenty-two characters! " * 8, each_ms=100)
    assert all(len(cue.lines) <= LINES for cue in cues(spoken))
    spoken = words("abcde " * 30, each_ms=100)
    assert [len(cue.lines) for cue in cues(spoken)] == [2, 2, 1]


@st.composite
def _speech(draw: st.DrawFn) -> list[Word]:
    spoken: list[Word] = []
    time_ms = 0
    for _ in range(draw(st.integers(0, 15))):
        time_ms += draw(st.sampled_from([0, 0, 0, 80, 400, 3000]))
        length_ms = draw(st.sampled_from([80, 160, 400, 1200, 9000]))
        pattern = draw(st.sampled_from(["a", "well-known", "b.", "漢", "<"]))
        text = pattern * draw(st.sampled_from([1, 1, 1, 2, 60]))
        spoken.append(Word(text, time_ms, time_ms + length_ms, 0.5))
        time_ms += length_ms
    return spoken


@given(_speech())
def test_any_speech(spoken: list[Word]) -> None:
    shown = cues(spoken)
    for cue in shown:
        assert 1 <= len(cue.lines) <= LINES
        assert all(len(line) <= LINE_CHARACTERS for line in cue.lines)
        assert 0 < cue.end_ms - cue.start_ms <= LONGEST_CUE_MS
    for cue, after in itertools.pairwise(shown):
        assert cue.end_ms <= after.start_ms
    letters = "".join("".join(cue.lines) for cue in shown)
    assert re.sub(r"\s", "", letters) == "".join(word.text for word in spoken)
