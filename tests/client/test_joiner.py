"""Tokens of pieces are joined to those of the recording; none is lost or repeated."""

from __future__ import annotations

from earshot import Token
from earshot._joiner import Joiner

FRAME_MS = 80
OVERLAP = (100, 125)
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs"]


def spoken(words: list[str], first_frame: int, every: int = 4) -> list[Token]:
    """Return two tokens per word; the first word has no space, as at the start of a piece."""
    tokens: list[Token] = []
    for index, word in enumerate(words):
        frame = first_frame + every * index
        middle = len(word) // 2
        for half, (text, offset) in enumerate(((word[:middle], 0), (word[middle:], 1))):
            lead = " " if tokens and half == 0 else ""
            identity = sum(map(ord, word)) * 2 + half
            tokens.append(Token(identity, lead + text, frame + offset, -0.1))
    return tokens


def joined(before: list[Token], after: list[Token], overlap: tuple[int, int] | None) -> str:
    joiner = Joiner(FRAME_MS)
    joiner.add(before, None)
    joiner.add(after, overlap)
    frames = [token.frame for token in joiner.tokens]
    assert frames == sorted(frames)
    return "".join(token.text for token in joiner.tokens)


def test_after_a_pause_one_follows_the_other() -> None:
    assert joined(spoken(WORDS[:2], 0), spoken(WORDS[2:4], 50), None) == "the quick brown fox"


def test_an_empty_piece_changes_nothing() -> None:
    assert joined(spoken(WORDS[:2], 0), [], None) == "the quick"
    assert joined([], spoken(WORDS[:2], 50), None) == "the quick"
    assert joined(spoken(WORDS[:2], 0), [], OVERLAP) == "the quick"
    assert joined([], spoken(WORDS[:2], 110), OVERLAP) == "the quick"


def test_where_both_agree_they_are_joined_in_the_middle_of_it() -> None:
    before = spoken(WORDS[:9], 90)  # up to frame 123
    after = spoken(WORDS[4:], 106)
    assert joined(before, after, OVERLAP) == " ".join(WORDS)


def test_a_wrong_word_at_the_edge_of_one_piece_is_taken_from_the_other() -> None:
    before = spoken([*WORDS[:8], "do"], 90)  # the last word is cut
    after = spoken(["mps", *WORDS[5:]], 107)  # the first word is cut
    assert joined(before, after, OVERLAP) == " ".join(WORDS)


def test_times_may_differ_a_little() -> None:
    before = spoken(WORDS[:9], 90)
    after = spoken(WORDS[4:], 109)
    assert joined(before, after, OVERLAP) == " ".join(WORDS)


def test_without_agreement_the_middle_decides_and_words_stay_whole() -> None:
    before = spoken(["one", "two", "three", "four"], 95, every=8)  # 95, 103, 111, 119
    after = spoken(["alpha", "beta", "gamma", "delta"], 101, every=8)  # 101, 109, 117, 125
    assert joined(before, after, OVERLAP) == "one two three gamma delta"


def test_without_agreement_a_long_word_across_the_middle_costs_no_words() -> None:
    """The second piece has one word from frame 102 on, where the first has three."""
    before = spoken(["one", "two", "three", "four"], 98, every=6)  # up to frame 117
    long = [Token(1, "al", 102, -0.1), Token(2, "pha", 114, -0.1), Token(3, "bet", 121, -0.1)]
    after = [*long, Token(4, " gamma", 128, -0.1)]
    assert joined(before, after, OVERLAP) == "one two three four gamma"


def test_the_same_word_a_second_later_is_another_one() -> None:
    before = spoken(["no"], 102)
    after = spoken(["no"], 120)
    assert joined(before, after, OVERLAP) == "no no"


def test_writing_without_spaces() -> None:
    before = [Token(i, c, 100 + 5 * i, 0.0) for i, c in enumerate("今天天")]
    after = [Token(9 + i, c, 101 + 6 * i, 0.0) for i, c in enumerate("七八气很好")]
    assert joined(before, after, OVERLAP) == "今天天气很好"
    later = [Token(9, "七", 130, 0.0)]
    assert joined(before, later, None) == "今天天七"


def test_a_character_in_two_tokens_keeps_its_space() -> None:
    after = [Token(1, "", 60, -0.1), Token(2, "é", 61, -0.1)]
    assert joined(spoken(["the"], 0), after, None) == "the é"
