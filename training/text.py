"""Normalize text, read the sentence list, and train the BPE tokenizer.

Transcripts of several corpora must be converted to one alphabet, the only one that the tokenizer
supports. The tokenizer is a `ParakeetTokenizer`, the class of published checkpoints of this
architecture, so that `AutoProcessor` loads the demo checkpoint like them.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

PAD_TOKEN = "<pad>"
BLANK_TOKEN = "<blank>"
PAD_TOKEN_ID = 0

_NOT_SPEECH = re.compile(r"[^a-z' ]+")


def normalize(text: str) -> str:
    """Return lower-case letters, apostrophes inside words and single spaces, as the model does."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = _NOT_SPEECH.sub(" ", plain).split()
    return " ".join(word for word in (word.strip("'") for word in words) if word)


def read_sentences(path: Path) -> list[str]:
    """Return the normalized, non-empty lines of a text file with one sentence per line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [sentence for sentence in map(normalize, lines) if sentence]


def text_of(tokenizer: ParakeetTokenizer, ids: list[int]) -> str:
    """Return the text of a transducer's ids, without blanks and padding but with repetitions."""
    text = tokenizer.decode(ids, skip_special_tokens=True, group_tokens=False)
    assert isinstance(text, str)
    return text.strip()


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> ParakeetTokenizer:
    """Train BPE of `vocab_size` ids: padding first, blank last, pieces between them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    bpe.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, special_tokens=[PAD_TOKEN], show_progress=False
    )
    bpe.train_from_iterator(sentences, trainer)
    if bpe.get_vocab_size() != vocab_size - 1:
        raise ValueError(
            f"expected {vocab_size - 1} pieces, got {bpe.get_vocab_size()}: give more sentences"
        )
    bpe.add_special_tokens([BLANK_TOKEN])
    return ParakeetTokenizer(
        tokenizer_object=bpe,
        pad_token=PAD_TOKEN,
        additional_special_tokens=[BLANK_TOKEN],
        clean_up_tokenization_spaces=False,
    )
