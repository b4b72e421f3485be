"""Train heads on a frozen encoder: encode once, fit, measure, and publish useful heads."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from training.adapt.base import Base, load_base
from training.adapt.errors import NotBetter
from training.adapt.run import progress_bar
from training.adapt.settings import sha256_of
from training.head.card import PICTURE, Outcome, write_card
from training.head.examples import (
    Examples,
    Question,
    questions_of,
    read_examples,
    split_examples,
)
from training.head.files import write_heads
from training.head.fit import fit, steps_of
from training.head.frames import EncodedRecordings, encoded_recordings
from training.head.model import Heads
from training.head.picture import draw_confusion
from training.head.score import HeadScore, label, majority_labels, score_labels
from training.head.settings import Settings


def train_heads(settings: Settings, console: Console) -> Outcome:
    """Train heads for the columns `settings.labels`, and write `settings.output`.

    Raises:
        CannotAdapt: checkpoint, recordings or folders are unsuitable; nothing has been written.
        NotBetter: a head is no better on held-out recordings than the same label for all.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings.check()
    examples = read_examples(settings.data, settings.labels)
    tests = {folder: read_examples(folder, settings.labels) for folder in settings.tests}
    questions = questions_of(examples, settings.labels)
    trained, held_out, parts = split_examples(examples)
    base = load_base(settings.checkpoint)
    base_sha256 = sha256_of(settings.checkpoint / "model.safetensors")
    with progress_bar(console) as bar:
        encoder = _Encoder(base, base_sha256, settings, bar)
        speech, answers = _to_train_on(encoder, trained, questions)
        heads = _fit(settings, questions, speech, answers, bar)
        measure = _Measure(heads, questions, majority_labels(answers), encoder)
        outcome = Outcome(
            settings,
            base_sha256,
            len(trained.recordings),
            measure.scores(held_out),
            parts.by_speaker,
            {folder.name: measure.scores(test) for folder, test in tests.items()},
        )
    _write(outcome, heads, questions)
    _require_better(outcome)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(settings.candidate, settings.output)
    return outcome


@dataclass(frozen=True)
class _Encoder:
    """The frozen encoder, and the folder of its frames."""

    base: Base
    base_sha256: str
    settings: Settings
    bar: Progress

    def encode(self, examples: Examples, variant: int = 0) -> EncodedRecordings:
        """Return the frames of all recordings of a part, or of a variant of them."""
        total = len(examples.recordings)
        task = self.bar.add_task("encoder frames", total=total)
        speech = encoded_recordings(
            self.base,
            self.base_sha256,
            examples.recordings,
            self.settings.lookahead,
            self.settings.work,
            lambda: self.bar.advance(task),
            variant,
        )
        self.bar.update(task, completed=total)
        return speech


def _to_train_on(
    encoder: _Encoder, trained: Examples, questions: Sequence[Question]
) -> tuple[EncodedRecordings, Tensor]:
    """Return recordings and variants, and the right labels of all of them."""
    variants = range(encoder.settings.variants + 1)
    speech = [encoder.encode(trained, variant) for variant in variants]
    answers = trained.answers(questions)
    return EncodedRecordings(
        torch.cat([each.frames for each in speech]), torch.cat([each.counts for each in speech])
    ), answers.repeat(len(speech), 1)


def _fit(
    settings: Settings,
    questions: Sequence[Question],
    speech: EncodedRecordings,
    answers: Tensor,
    bar: Progress,
) -> Heads:
    labels = [len(question.labels) for question in questions]
    heads = Heads(speech.frames.shape[1], labels, settings.queries)
    task = bar.add_task("training", total=steps_of(len(answers), settings.passes))

    def after_step(loss: float) -> None:
        bar.update(task, advance=1, description=f"training (loss {loss / len(questions):.2f})")

    fit(speech, answers, heads, settings.passes, after_step)
    return heads


@dataclass(frozen=True)
class _Measure:
    """Trained heads, and the baseline to compare them with."""

    heads: Heads
    questions: Sequence[Question]
    majority: list[int]
    encoder: _Encoder

    def scores(self, examples: Examples) -> list[HeadScore]:
        """Return the score of each head on a set."""
        given = label(self.heads, self.encoder.encode(examples))
        return score_labels(self.questions, given, examples.answers(self.questions), self.majority)


def _write(outcome: Outcome, heads: Heads, questions: Sequence[Question]) -> None:
    settings, folder = outcome.settings, outcome.settings.candidate
    shutil.rmtree(folder, ignore_errors=True)
    write_heads(
        heads, questions, settings.checkpoint, outcome.base_sha256, settings.lookahead, folder
    )
    write_card(outcome, folder)
    draw_confusion(outcome.held_out, folder / PICTURE)


def _require_better(outcome: Outcome) -> None:
    """Raise NotBetter if a head is useless."""
    useless = [s for s in outcome.held_out if s.accuracy <= s.majority_accuracy]
    if useless:
        listed = ", ".join(
            f"{score.question.name} {score.accuracy:.1%} (one label for all: "
            f"{score.majority_accuracy:.1%})"
            for score in useless
        )
        raise NotBetter(
            f"not published: of the held-out recordings, these heads get no more right than the "
            f"most frequent label would: {listed}. Add recordings, or leave out the column "
            f"(--label); the result stays in {outcome.settings.candidate}"
        )
