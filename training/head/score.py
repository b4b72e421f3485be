"""Measure the accuracy of heads, compared with that of the most frequent label for all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.head.examples import Question
from training.head.fit import UNKNOWN
from training.head.frames import EncodedRecordings
from training.head.model import Heads


@dataclass(frozen=True)
class HeadScore:
    """Result of one head on one set."""

    question: Question
    counts: tuple[tuple[int, ...], ...]
    """Number of recordings by right label (rows) and label of the head (columns)."""
    unknown: int
    """Number of recordings whose right label does not occur in `--data`; they count as wrong."""
    majority: int
    """Number of recordings that have the most frequent label of the training part."""

    @property
    def recordings(self) -> int:
        """Return the number of recordings of the set."""
        return sum(map(sum, self.counts)) + self.unknown

    @property
    def accuracy(self) -> float:
        """Return the share of recordings with the right label."""
        right = sum(row[label] for label, row in enumerate(self.counts))
        return right / self.recordings

    @property
    def majority_accuracy(self) -> float:
        """Return the accuracy of the most frequent label of the training part."""
        return self.majority / self.recordings


def score_labels(
    questions: Sequence[Question], given: Tensor, answers: Tensor, majority: Sequence[int]
) -> list[HeadScore]:
    """Compare the labels `given` with the right ones, both int64 [recordings, heads]."""
    scores: list[HeadScore] = []
    for head, question in enumerate(questions):
        pairs = Counter(zip(answers[:, head].tolist(), given[:, head].tolist(), strict=True))
        labels = range(len(question.labels))
        scores.append(
            HeadScore(
                question,
                tuple(tuple(pairs[right, label] for label in labels) for right in labels),
                unknown=int((answers[:, head] == UNKNOWN).sum()),
                majority=int((answers[:, head] == majority[head]).sum()),
            )
        )
    return scores


def majority_labels(answers: Tensor) -> list[int]:
    """Return the most frequent label of each head."""
    return [int(answers[:, head].mode().values) for head in range(answers.shape[1])]


@torch.inference_mode()
def label(heads: Heads, speech: EncodedRecordings) -> Tensor:
    """Return the label of each recording and head, int64 [recordings, heads]."""
    given: list[Tensor] = []
    for index in range(len(speech.counts)):
        logits = heads(*speech.batch([index]))
        given.append(torch.stack([each[0].argmax() for each in logits]))
    return torch.stack(given)
