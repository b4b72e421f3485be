"""Prepare training: compute features of recordings and sentences, and the tokenizer."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from rich.progress import track
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.corpora import corpora, prepare_corpus, prepare_noise, read_corpus
from training.model import VOCAB_SIZE
from training.synthesize import (
    WORDS_SHARDS,
    make_shard,
    make_words_shard,
    shard_name,
    words_shard_name,
)
from training.text import read_sentences, train_tokenizer
from training.workplace import Workplace


def prepare(
    speech: Path, place: Workplace, synthetic_shards: int, jobs: int, committed: Path | None
) -> None:
    """Make the missing parts of the work folder, even after a run that was killed."""
    names = corpora(speech)
    if not names:
        raise SystemExit(
            f"no train/<corpus>/manifest.tsv under {speech}: --speech must name a folder "
            "laid out as training/README.md says"
        )
    sentences = read_sentences(speech / "train" / "text" / "sentences.txt")
    prepare_tokenizer(speech, names, sentences, place.tokenizer, committed)
    prepare_noise(speech, place.features)
    with ProcessPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        tasks = [workers.submit(prepare_corpus, speech, place.features, name) for name in names]
        for number in range(WORDS_SHARDS):
            if not (place.features / f"{words_shard_name(number)}.tsv").exists():
                tasks.append(workers.submit(make_words_shard, place.features, number, sentences))
        for number in range(synthetic_shards):
            if not (place.features / f"{shard_name(number)}.tsv").exists():
                tasks.append(workers.submit(make_shard, place.features, number, sentences))
        for task in track(as_completed(tasks), "speech to features", total=len(tasks)):
            task.result()


def prepare_tokenizer(
    speech: Path,
    names: Sequence[str],
    sentences: Sequence[str],
    folder: Path,
    committed: Path | None,
) -> None:
    """Copy the committed checkpoint's tokenizer, whose ids must not change, or train one."""
    if folder.exists():
        return
    if committed is not None:
        tokenizer = ParakeetTokenizer.from_pretrained(committed)
    else:
        recorded = [r.text for name in names for r in read_corpus(speech, name)]
        tokenizer = train_tokenizer([*sentences, *recorded], VOCAB_SIZE)
    tokenizer.save_pretrained(folder)
