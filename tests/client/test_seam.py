"""The tokens of two sequences are joined without one lost or doubled."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from earshot import Token
from earshot._seam import Seam

FRAME_MS = 80


def tokens(text: str, *frames: int) -> list[Token]:
    """Return one token for each character; a capital letter begins a word."""
    return [
        Token(ord(c), f" {c.lower()}" if c.isupper() else c, frame, -0.1)
        for c, frame in zip(text, frames, strict=True)
    ]


def joined(
    said: Sequence[Token], heard: Sequence[Token], boundary: int, *replies: Sequence[Token]
) -> str:
    seam = Seam(said, heard, boundary, FRAME_MS)
    new = [token for reply in replies for token in seam.join(reply)]
    frames = [token.frame for token in (*said, *new)]
    assert frames == sorted(frames)
    return "".join(token.text for token in (*said, *new))


SAID = tokens("AbCd", 1, 3, 5, 9)


@pytest.mark.parametrize(
    ("heard", "replies"),
    [
        pytest.param(SAID, [tokens("eF", 10, 12)], id="the same"),
        pytest.param(tokens("XbCd", 1, 3, 5, 9), [tokens("eF", 10, 12)], id="another beginning"),
        pytest.param(tokens("AbC", 1, 3, 5), [tokens("deF", 10, 11, 12)], id="one is late"),
        pytest.param(tokens("AbC", 1, 3, 5), [[], tokens("deF", 11, 12, 13)], id="a chunk late"),
        pytest.param(tokens("AbCde", 1, 3, 5, 8, 9), [tokens("F", 12)], id="one is early"),
        pytest.param(tokens("AbXd", 1, 3, 5, 9), [tokens("eF", 10, 12)], id="another before"),
        pytest.param(tokens("AbCdd", 1, 3, 5, 8, 8), [tokens("eF", 10, 12)], id="one too many"),
    ],
)
def test_a_word_goes_on(heard: list[Token], replies: list[list[Token]]) -> None:
    expected = " ab cdde f" if len(heard) > 4 and heard[4].text == "d" else " ab cde f"
    assert joined(SAID, heard, 10, *replies) == expected


def test_a_token_that_follows_twice_is_no_repetition() -> None:
    assert joined(SAID, SAID, 10, tokens("dE", 14, 15)) == " ab cdd e"


def test_late_tokens_are_not_taken_for_repetitions_for_ever() -> None:
    heard = tokens("AbC", 1, 3, 5)
    assert joined(SAID, heard, 10, [], tokens("dE", 30, 31)) == " ab cdd e"


def test_after_silence_the_first_word_has_its_space() -> None:
    said = tokens("A", 2)
    first = Token(7, "b", 100, -0.1)  # a sequence begins without a space
    assert joined(said, [], 98, [first], tokens("c", 101)) == " a bc"
    assert joined([], [], 98, [first]) == "b"
