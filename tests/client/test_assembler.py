"""Words are the same for any division of a text into tokens and chunks."""

from __future__ import annotations

import itertools
import math

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
