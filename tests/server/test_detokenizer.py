"""Text of a chunk's tokens, computed without keeping the transcript."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from server.backends.earshot.earshot_runtime.detokenizer import Detokenizer

CONTEXT = 8

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁the", "▁cat", "s", "▁", "é", "▁naïve", "'", "▁on"]
PIECES = [*BYTES, *WORDS]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Words and raw bytes, as SentencePiece models with byte fallback have them."""
    vocabulary = {piece: index for index, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<blank>", special=True)])
    return tokenizer


@pytest.fixture(scope="module")
def detokenizer(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Detokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return Detokenizer(path)


def ids(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


def chunked(detokenizer: Detokenizer, chunks: list[list[int]]) -> list[tuple[str, list[int]]]:
    """Detokenize as the ensemble does: each chunk with the last eight tokens before it."""
    emitted: list[int] = []
    results: list[tuple[str, list[int]]] = []
    for chunk in chunks:
        results.append(detokenizer.added(emitted[-CONTEXT:], chunk))
        emitted += chunk
    return results


def test_spaces_are_exact_when_joined(detokenizer: Detokenizer) -> None:
    results = chunked(detokenizer, [ids("▁the"), [], ids("▁cat"), ids("s", "▁on")])
    assert results == [("the", [3]), ("", []), (" cat", [4]), ("s on", [1, 3])]


def test_a_character_waits_for_its_last_byte(detokenizer: Detokenizer) -> None:
    euro = [f"<0x{byte:02X}>" for byte in "€".encode()]
    results = chunked(detokenizer, [ids("▁the", *euro[:1]), ids(euro[1]), ids(euro[2], "s")])
    assert results == [("the", [3, 0]), ("", [0]), ("€s", [1, 1])]


@settings(max_examples=400)
@given(
    pieces=st.lists(st.sampled_from([*WORDS, "é€", "字", "𝄞"]), max_size=30),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_any_chunking_gives_the_text_of_the_whole(
    tokenizer: Tokenizer, detokenizer: Detokenizer, pieces: list[str], cuts: list[int]
) -> None:
    tokens: list[int] = []
    for piece in pieces:
        tokens += ids(piece) if piece in WORDS else ids(*(f"<0x{b:02X}>" for b in piece.encode()))
    bounds = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    chunks = [tokens[a:b] for a, b in itertools.pairwise(bounds)]
    results = chunked(detokenizer, chunks)
    assert "".join(text for text, _ in results) == tokenizer.decode(tokens)
    for (text, lengths), chunk in zip(results, chunks, strict=True):
        assert len(lengths) == len(chunk)
        assert sum(lengths) == len(text)


@settings(max_examples=400)
@given(
    pieces=st.lists(st.sampled_from([*WORDS, *BYTES[0x60:0x66], *BYTES[0xE0:0xE6]]), max_size=40)
)
def test_a_whole_utterance_has_the_text_of_the_tokenizer(
    tokenizer: Tokenizer, detokenizer: Detokenizer, pieces: list[str]
) -> None:
    """Also one that ends, or breaks, within a character."""
    text, lengths = detokenizer.whole(ids(*pieces))
    assert text == tokenizer.decode(ids(*pieces))
    assert len(lengths) == len(pieces)
    assert sum(lengths) == len(text)
    assert min(lengths, default=0) >= 0
