"""Label recordings by their transcripts, a baseline for heads on the encoder's frames.

There are two methods: a search for the words of each label, and a linear classifier on the words
and pairs of words that occur, trained on the transcripts of the recordings that heads are trained
on.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from training.adapt.base import Base, load_base
from training.adapt.run import progress_bar
from training.decode import BATCH_SIZE, transcribe
from training.features import Utterance, log_mel, read_audio
from training.head.examples import Examples, Question, questions_of, read_examples, split_examples
from training.head.score import HeadScore, majority_labels, score_labels

FEWEST_TIMES = 2
"""Words that occur in fewer transcripts are ignored."""
STEPS = 300
RATE, WEIGHT_DECAY = 0.02, 0.1


@dataclass(frozen=True)
class TextScores:
    """Scores of both methods on one set."""

    name: str
    keywords: list[HeadScore]
    words: list[HeadScore]


def score_texts(
    checkpoint: Path,
    data: Path,
    tests: Sequence[Path],
    columns: Sequence[str],
    lookahead: int,
    console: Console,
) -> list[TextScores]:
    """Transcribe with `checkpoint`, label the texts, and score them like heads.

    Raises:
        CannotAdapt: checkpoint or recordings are unsuitable.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    examples = read_examples(data, columns)
    questions = questions_of(examples, columns)
    trained, held_out, _ = split_examples(examples)
    sets = {"held out": held_out, **{t.name: read_examples(t, columns) for t in tests}}
    base = load_base(checkpoint)
    with progress_bar(console) as bar:
        total = len(trained.recordings) + sum(len(each.recordings) for each in sets.values())
        task = bar.add_task("transcripts", total=total)
        report: Callable[[int], None] = lambda count: bar.advance(task, count)  # noqa: E731
        answers = trained.answers(questions)
        classifier = WordClassifier.fit(
            _transcribe(base, trained, lookahead, report), answers, questions
        )
        majority = majority_labels(answers)
        scores: list[TextScores] = []
        for name, part in sets.items():
            texts, right = _transcribe(base, part, lookahead, report), part.answers(questions)
            found = torch.tensor([by_keywords(questions, majority, text) for text in texts])
            scores.append(
                TextScores(
                    name,
                    score_labels(questions, found, right, majority),
                    score_labels(questions, classifier.label(texts), right, majority),
                )
            )
    return scores


def _transcribe(
    base: Base, examples: Examples, lookahead: int, report: Callable[[int], None]
) -> list[str]:
    texts: list[str] = []
    for first in range(0, len(examples.recordings), BATCH_SIZE):
        chosen = examples.recordings[first : first + BATCH_SIZE]
        spoken = [Utterance(log_mel(read_audio(r.path)), "") for r in chosen]
        texts += transcribe(base.model, base.tokenizer, spoken, lookahead)
        report(len(chosen))
    return texts


def by_keywords(questions: Sequence[Question], majority: Sequence[int], text: str) -> list[int]:
    """Return for each head the longest label whose words occur in `text`.

    If there is none, it is the empty label or, without an empty label, the most frequent one.
    """
    given: list[int] = []
    for question, most in zip(questions, majority, strict=True):
        found = [label for label in question.labels if f" {label} " in f" {text} "]
        longest = max(found, key=len, default="")
        labels = question.labels
        given.append(labels.index(longest) if longest in labels else most)
    return given


class WordClassifier:
    """One linear layer for each head, on the words and pairs of words that occur in a text."""

    def __init__(self, vocabulary: Sequence[str], layers: Sequence[nn.Linear]) -> None:
        self._index = {feature: index for index, feature in enumerate(vocabulary)}
        self._layers = layers

    @classmethod
    def fit(
        cls, texts: Sequence[str], answers: Tensor, questions: Sequence[Question]
    ) -> "WordClassifier":
        """Train on texts and the right labels int64 [texts, heads]."""
        counts = Counter(feature for text in texts for feature in _features(text))
        vocabulary = sorted(f for f, count in counts.items() if count >= FEWEST_TIMES)
        layers = [nn.Linear(len(vocabulary), len(question.labels)) for question in questions]
        classifier = cls(vocabulary, layers)
        occurs = classifier._occurs(texts)
        weights = [weight for layer in layers for weight in layer.parameters()]
        optimizer = torch.optim.AdamW(weights, RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(STEPS):
            losses = [
                functional.cross_entropy(layer(occurs), answers[:, head])
                for head, layer in enumerate(layers)
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
        return classifier

    @torch.inference_mode()
    def label(self, texts: Sequence[str]) -> Tensor:
        """Return the label of each text and head, int64 [texts, heads]."""
        occurs = self._occurs(texts)
        return torch.stack([layer(occurs).argmax(dim=1) for layer in self._layers], dim=1)

    def _occurs(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), len(self._index))
        for row, text in zip(rows, texts, strict=True):
            known = [self._index[f] for f in _features(text) if f in self._index]
            row[known] = 1.0
        return rows


def _features(text: str) -> set[str]:
    words = text.split()
    return {*words, *(" ".join(pair) for pair in pairwise(words))}
