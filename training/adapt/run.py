"""Adapt a checkpoint: measure, train, measure again, and publish only an improvement."""

import copy
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.adapt.base import Base, add_adapter, load_base, merged
from training.adapt.card import Comparison, Outcome, write_card
from training.adapt.errors import NotBetter, Stopped
from training.adapt.recordings import (
    Speech,
    Split,
    prepare,
    read_recordings,
    recordings_to_read,
    split,
)
from training.adapt.settings import ADAPTER, Settings
from training.batches import draw_round
from training.evaluate import Score, read_test_set, score
from training.features import Utterance
from training.model import write_checkpoint
from training.pages import keep_freed_pages
from training.schedule import Phase, moment
from training.train import LOG_EVERY_STEPS, REPLICAS, Draw, StepReport, Trainer

SAVE_EVERY_STEPS = 25
RISING_SHARE = 0.1
FINAL_RATE_SHARE = 0.02


def adapt(settings: Settings, console: Console, stop: threading.Event) -> Outcome:
    """Adapt `settings.checkpoint` to `settings.data`, and write `settings.output`.

    Raises:
        CannotAdapt: checkpoint, recordings or folders are unsuitable; nothing has been written.
        NotBetter: the word error rate on held-out recordings did not fall.
        Stopped: `stop` was set.
    """
    torch.set_num_threads(1)
    keep_freed_pages()
    base = load_base(settings.checkpoint)
    parts = split(read_recordings(settings.data))
    settings.claim()
    with progress_bar(console) as bar:
        speech = _prepare(parts, settings.work / "features", bar)
        before = score("held out", base.model, base.tokenizer, speech.held_out, base.lookahead)
        console.print(f"held-out recordings: {before.words} words, WER {before.wer:.1%}")
        training = Training.open(settings, base, speech)
        training.until_done(bar, stop)
    write_candidate(settings, base, training)
    after, compared = _measure(settings, base, speech.held_out)
    outcome = Outcome(
        settings,
        parts,
        speech.trained_hours,
        training.trainer.progress,
        [(before, after), *compared],
    )
    write_card(outcome, settings.candidate)
    if after.wer >= before.wer:
        raise NotBetter(
            f"not published: the WER on held-out recordings is {after.wer:.1%} after adaptation, "
            f"{before.wer:.1%} before. Add recordings, or train differently (--learning-rate, "
            f"--passes, --rank); the result stays in {settings.candidate}"
        )
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(settings.candidate, settings.output)
    return outcome


def progress_bar(console: Console) -> Progress:
    """Return a display of tasks with their share and times."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _prepare(parts: Split, features: Path, bar: Progress) -> Speech:
    total = recordings_to_read(parts)
    task = bar.add_task("features", total=total)
    speech = prepare(parts, features, lambda: bar.advance(task))
    bar.update(task, completed=total)
    return speech


@dataclass
class Training:
    """The trainer of one adaptation, with its data and its folder."""

    trainer: Trainer
    adapted: PeftModel | None
    """The model with its adapter; None when all weights are trained."""
    base: Base
    speech: Speech
    phases: tuple[Phase, ...]
    work: Path

    @classmethod
    def open(cls, settings: Settings, base: Base, speech: Speech) -> "Training":
        """Start from scratch, or from the state in the work folder."""
        model = copy.deepcopy(base.model)
        adapted = None
        if not settings.full:
            torch.manual_seed(0)
            adapted = add_adapter(model, settings.rank, settings.checkpoint)
        trainer = Trainer(model)
        training = cls(trainer, adapted, base, speech, phases(settings, speech), settings.work)
        if training.state.exists():
            trainer.load(training.state)
        return training

    @property
    def state(self) -> Path:
        """Return the file of weights, optimizer and progress."""
        return self.work / "state.pt"

    @property
    def hours(self) -> float:
        """Return the total hours of audio to train on."""
        return sum(phase.audio_hours for phase in self.phases)

    def until_done(self, bar: Progress, stop: threading.Event) -> None:
        """Train to the end of the schedule.

        Raises:
            Stopped: `stop` was set.
        """
        progress = self.trainer.progress
        task = bar.add_task("training", total=self.hours)

        def after_step(report: StepReport) -> None:
            loss = f"training (loss {report.transducer:.2f} per token)"
            bar.update(task, completed=progress.audio_hours, description=loss)
            if progress.steps % LOG_EVERY_STEPS == 0:
                self._log(report)
            if progress.steps % SAVE_EVERY_STEPS == 0:
                self.trainer.save(self.state)

        with ThreadPoolExecutor(REPLICAS) as threads:
            draw = Draw(self.speech.pool, self.base.tokenizer, threads)
            while not stop.is_set() and moment(progress.audio_hours, self.phases):
                self._round(draw, stop, after_step)
        self.trainer.save(self.state)
        if stop.is_set():
            raise Stopped(f"stopped; the same command continues from {self.state}")

    def _round(
        self, draw: Draw, stop: threading.Event, after_step: Callable[[StepReport], None]
    ) -> None:
        progress = self.trainer.progress
        progress.rounds += 1
        batches = draw_round(draw.pool, self.phases[0], progress.rounds)
        for first in range(0, len(batches) - REPLICAS + 1, REPLICAS):
            now = moment(progress.audio_hours, self.phases)
            if now is None or stop.is_set():
                return
            after_step(self.trainer.step(batches[first : first + REPLICAS], draw, now))

    def _log(self, report: StepReport) -> None:
        with (self.work / "log.jsonl").open("a") as lines:
            lines.write(json.dumps(vars(self.trainer.progress) | vars(report)) + "\n")


def phases(settings: Settings, speech: Speech) -> tuple[Phase, ...]:
    """Return the schedule: the learning rate rises over a tenth of the audio, and then falls."""
    hours = settings.passes * speech.trained_hours

    def phase(name: str, share: float, rate: float) -> Phase:
        return Phase(
            name,
            share * hours,
            rate,
            real_share=1.0,
            max_seconds=float("inf"),
            objective="transducer",
            batch_seconds=20.0,
            augmented_share=0.5,
        )

    peak = settings.peak_rate
    return (
        phase("rising", RISING_SHARE, peak),
        phase("falling", 1 - RISING_SHARE, FINAL_RATE_SHARE * peak),
    )


def write_candidate(settings: Settings, base: Base, training: Training) -> None:
    """Write the averaged weights as a checkpoint, and the adapter alone beside them."""
    model = training.trainer.model
    model.load_state_dict(training.trainer.average.state_dict())
    model.eval()
    folder = settings.candidate
    shutil.rmtree(folder, ignore_errors=True)
    if training.adapted is not None:
        _write_adapter(training.adapted, folder / ADAPTER)
        model = merged(training.adapted)
    write_checkpoint(model, base.processor, folder)


def _write_adapter(adapted: PeftModel, folder: Path) -> None:
    adapted.save_pretrained(str(folder))
    (folder / "README.md").unlink()  # peft's template; the card is beside the checkpoint
    for file in folder.iterdir():
        file.chmod(0o644)


def _measure(
    settings: Settings, base: Base, held_out: list[Utterance]
) -> tuple[Score, list[Comparison]]:
    """Measure the written checkpoint, not the one in memory, on held-out and on test sets."""
    result = load_base(settings.candidate)

    def scores(model: Base, name: str, spoken: list[Utterance]) -> Score:
        return score(name, model.model, model.tokenizer, spoken, base.lookahead)

    sets = [(folder.name, read_test_set(folder)) for folder in settings.tests]
    compared = [(scores(base, *test_set), scores(result, *test_set)) for test_set in sets]
    return scores(result, "held out", held_out), compared
