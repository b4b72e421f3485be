"""Words are the same for any division of a text into tokens and chunks."""

from __future__ import annotations

import itertools
import math
import pickle

import pytest
from earshot import Token, Word
from earshot._assembler import Assembler
from hypothesis import given, settings
from hypothesis import strategies as st

FRAME_MS = 80


def token(text: str, frame: int = 0, logprob: float = -0.1) -> Token:
    return Token(id=1, text=text, frame=frame, logprob=logprob)


@given(pieces=st.lists(st.text("ab é漢 \n", max_size=4), max_size=20), cut=st.integers(0, 20))
@settings(deadline=None)
def test_words_are_the_text_split_at_white_space(pieces: list[str], cut: int) -> None:
    tokens = [token(piece, frame) for frame, piece in enumerate(pieces)]
    assembler = Assembler(FRAME_MS)
    final = [*assembler.add(tokens[:cut]), *assembler.add(tokens[cut:]), *assembler.finish()]
    transcript = assembler.transcript(1.5)
    assert transcript.text == "".join(pieces)
    assert transcript.tokens == tuple(tokens)
    assert transcript.duration_s == 1.5
    assert [word.text for word in final] == transcript.text.split()
    assert transcript.words == tuple(final)
    assert all(a.start_ms <= b.start_ms for a, b in itertools.pairwise(final))


def test_a_word_may_span_chunks_and_ends_where_the_next_begins() -> None:
    assembler = Assembler(FRAME_MS)
    assert assembler.add([token("Good", 3), token(" mor", 5)]) == (
        Word("Good", 240, 320, math.exp(-0.1)),
    )
    assert assembler.add([]) == ()
    assert assembler.transcript(0).words[-1].text == "mor"
    assert assembler.add([token("ning", 9)]) == ()
    (morning,) = assembler.finish()
    assert (morning.text, morning.start_ms, morning.end_ms) == ("morning", 400, 800)


def test_confidence_is_the_geometric_mean_of_the_probabilities() -> None:
    assembler = Assembler(FRAME_MS)
    assembler.add([token("a", logprob=math.log(0.9)), token("b", logprob=math.log(0.4))])
    (word,) = assembler.finish()
    assert math.isclose(word.confidence, 0.6)


def test_bytes_of_a_character_belong_to_its_word() -> None:
    assembler = Assembler(FRAME_MS)
    assembler.add([token("ok ", 0), token("", 4), token("", 5), token("漢", 6)])
    (ideograph,) = assembler.finish()
    assert (ideograph.start_ms, ideograph.end_ms) == (4 * FRAME_MS, 7 * FRAME_MS)


def test_one_token_may_end_a_word_and_begin_the_next() -> None:
    assembler = Assembler(FRAME_MS)
    (first,) = assembler.add([token("a", 0), token("b c", 1)])
    (second,) = assembler.finish()
    assert (first.text, first.start_ms, first.end_ms) == ("ab", 0, 160)
    assert (second.text, second.start_ms, second.end_ms) == ("c", 80, 160)


def test_bytes_of_a_character_that_begins_a_word_belong_to_that_word() -> None:
    assembler = Assembler(FRAME_MS)
    (ok,) = assembler.add([token("ok", 0), token("", 4, -2.0), token(" 漢", 5), token("", 8, -2.0)])
    assert (ok.end_ms, ok.confidence) == (FRAME_MS, math.exp(-0.1))
    (ideograph,) = assembler.finish()
    assert (ideograph.start_ms, ideograph.end_ms) == (4 * FRAME_MS, 6 * FRAME_MS)
    assert math.isclose(ideograph.confidence, math.exp(-1.05))


def test_bytes_of_a_character_inside_a_word_wait_for_it() -> None:
    assembler = Assembler(FRAME_MS)
    assembler.add([token("na", 0), token("", 4)])
    assert assembler.transcript(0).words[0].end_ms == FRAME_MS
    assembler.add([token("ï", 5), token("ve", 6)])
    (word,) = assembler.finish()
    assert (word.text, word.start_ms, word.end_ms) == ("naïve", 0, 7 * FRAME_MS)


@pytest.mark.parametrize(
    ("tokens", "start", "end"),
    [
        ([("there", 10), ("?", 11)], 10, 12),
        ([("there", 10), ("?", 22)], 10, 23),
        ([("th", 10), ("ere", 12), ("?", 250)], 10, 13),
        ([("th", 10), ("ere", 250)], 250, 251),
        ([("t", 10), ("he", 12), ("re", 250)], 10, 13),
        ([("a", 10), ("b", 100), ("c", 200)], 10, 11),
        ([("?", 10), ("!", 100)], 10, 11),
    ],
)
def test_a_pause_inside_a_word_does_not_stretch_it(
    tokens: list[tuple[str, int]], start: int, end: int
) -> None:
    assembler = Assembler(FRAME_MS)
    for text, frame in tokens:
        assembler.add([token(text, frame)])
    (word,) = assembler.finish()
    assert word.text == "".join(text for text, _ in tokens)
    assert (word.start_ms, word.end_ms) == (start * FRAME_MS, end * FRAME_MS)


def test_the_open_word_is_the_text_that_may_go_on() -> None:
    assembler = Assembler(FRAME_MS)
    open_words: list[str] = []
    for piece in ("Good", " mor", "", "ning ", "all"):
        assembler.add([token(piece)])
        open_words.append(assembler.open_word)
    assembler.finish()
    assert [*open_words, assembler.open_word] == ["Good", "mor", "mor", "", "all", ""]


@pytest.mark.parametrize("text", [" word", "漢", "", "?"])
def test_memory_of_a_stream_that_never_ends_is_bounded(text: str) -> None:
    assembler = Assembler(FRAME_MS, keep=False)
    sizes: list[int] = []
    words = 0
    for hour in range(3):
        for chunk in range(3000):
            words += len(assembler.add([token(text, 3000 * hour + chunk)]))
        sizes.append(len(pickle.dumps(assembler)))
    assert sizes[2] <= sizes[1] + 1000
    assert assembler.transcript(0).tokens == ()
    if text == " word":
        assert words == 8999
