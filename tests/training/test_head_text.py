"""Labels by transcripts: the longest label that was said, and a classifier on words."""

from __future__ import annotations

import torch

from training.head.examples import Question
from training.head.text import WordClassifier, by_keywords

MILK = Question("milk", ("", "milk", "soy milk"), "milk")
DRINK = Question("drink", ("latte", "mocha"), "drink")


def test_the_longest_label_that_was_said_is_found() -> None:
    majority = [1, 1]
    assert by_keywords([MILK, DRINK], majority, "a latte with soy milk please") == [2, 0]
    assert by_keywords([MILK, DRINK], majority, "a mocha with milky foam") == [0, 1]
    assert by_keywords([MILK, DRINK], majority, "nothing") == [0, 1], "no label, or the majority"


def test_a_classifier_learns_which_words_tell_a_label() -> None:
    torch.manual_seed(0)
    texts = ["a latte please", "one latte", "a mocha please", "one mocha"] * 3
    answers = torch.tensor([[0], [0], [1], [1]] * 3)
    classifier = WordClassifier.fit(texts, answers, [DRINK])
    assert classifier.label(["please a mocha", "my latte", "unknown words"])[:2].tolist() == [
        [1],
        [0],
    ]
