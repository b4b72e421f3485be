"""Train with two replicas on two threads, resumably, with a log in JSON lines.

Threads within an operation wait for each other at its end, hundreds of times per step, and for long
if another process uses a core. Replicas that share their weights synchronize only once per step:
each thread runs its own batch. Randomness depends only on the seed and the step, and the schedule
only on the audio trained on.
"""

import copy
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import NemotronAsrStreamingForRNNT
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.augment import Augmentation
from training.batches import Pool, collate, draw_round, load_pool
from training.decode import transcribe, transcribe_by_ctc, word_error_rate
from training.fast_encoder import Dropout
from training.features import Utterance, read_shard
from training.model import DEFAULT_LOOKAHEAD, Losses, create_model, losses, save_checkpoint
from training.pages import keep_freed_pages
from training.schedule import PHASES, Moment, Phase, moment, total_hours
from training.workplace import Workplace

REPLICAS = 2
SEED = 1
LOG_EVERY_STEPS = 25
LOOK_EVERY_HOURS = 10.0
LOOK_UTTERANCES = 50
SAVE_EVERY_SECONDS = 300.0
RATE_RAMP_STEPS = 100
"""Steps over which the learning rate rises after a start without optimizer state."""
MATMUL_PRECISION = "medium"
"""Products in bfloat16 with float32 sums if the CPU supports them (AMX): half the CPU time."""
MAX_GRADIENT_NORM = 2.0
AVERAGE_DECAY = 0.995


@dataclass
class Progress:
    """Progress that a resumed run needs besides weights; the run continues with the next round."""

    steps: int = 0
    audio_hours: float = 0.0
    """Position in the schedule."""
    earlier_hours: float = 0.0
    """Audio of earlier cycles on which the weights were trained."""
    rounds: int = 0
    steps_of_optimizer: int = 0
    seconds: float = 0.0


@dataclass
class Trainer:
    """Model, optimizer and progress, with the operations on them."""

    model: NemotronAsrStreamingForRNNT
    seed: int = SEED
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.model.train()
        self.replicas = [self.model, *(self._replica() for _ in range(REPLICAS - 1))]
        self.average = copy.deepcopy(self.model).eval()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim > 1]
        vectors = [p for p in trained if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 1e-2}, {"params": vectors, "weight_decay": 0.0}],
            betas=(0.9, 0.98),
            fused=True,
        )

    def _replica(self) -> NemotronAsrStreamingForRNNT:
        """Return a model with its own gradients on the same weights."""
        replica = copy.deepcopy(self.model)
        for theirs, ours in zip(replica.parameters(), self.model.parameters(), strict=True):
            theirs.data = ours.data
        return replica

    def save(self, path: Path) -> None:
        """Write the whole state atomically: a kill leaves either the old file or the new one."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Load the state that `save` wrote."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def step(self, batches: list[list[Utterance]], draw: "Draw", now: Moment) -> "StepReport":
        """Make one update from one batch per replica."""
        rng = random.Random(self.seed * 7_919 + self.progress.steps)
        weights = now.phase.lookahead_weights
        lookahead = rng.choices(list(weights), list(weights.values()))[0]

        def work(replica: int) -> tuple[float, Losses]:
            seed = (self.seed, self.progress.steps, replica)
            augmentation = Augmentation(
                draw.pool.around, now.phase.augmented_share, np.random.default_rng(seed)
            )
            batch = collate(batches[replica], draw.tokenizer, augmentation)
            dropout = _dropout(now.phase.dropout, hash(seed))
            model = self.replicas[replica]
            found = losses(model, batch, lookahead, now.phase.objective, dropout)
            (found.total / REPLICAS).backward()
            return batch.audio_seconds, found

        results = list(draw.threads.map(work, range(REPLICAS)))
        norm = self._update(now)
        audio_seconds = sum(seconds for seconds, _ in results)
        self.progress.steps += 1
        self.progress.steps_of_optimizer += 1
        self.progress.audio_hours += audio_seconds / 3600
        found = [losses for _, losses in results]
        return StepReport(
            audio_seconds,
            _mean_of(losses.ctc for losses in found),
            _mean_of(losses.transducer for losses in found),
            norm,
        )

    def _update(self, now: Moment) -> float:
        """Apply the sum of the replicas' gradients if it is finite; return its norm."""
        for ours, *others in zip(*(r.parameters() for r in self.replicas), strict=True):
            for theirs in others:
                if theirs.grad is not None:
                    ours.grad = theirs.grad if ours.grad is None else ours.grad.add_(theirs.grad)
                    theirs.grad = None
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM))
        ramp = min(1.0, (self.progress.steps_of_optimizer + 1) / RATE_RAMP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = now.learning_rate * ramp
        if np.isfinite(norm):
            self.optimizer.step()
            self._update_average()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(AVERAGE_DECAY, (1 + self.progress.steps) / (10 + self.progress.steps))
        for average, ours in zip(self.average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(ours, 1 - decay)


def _dropout(share: float, seed: int) -> Dropout | None:
    return Dropout(share, torch.Generator().manual_seed(seed)) if share else None


@dataclass(frozen=True)
class StepReport:
    """Audio, mean losses per label and gradient norm of one update."""

    audio_seconds: float
    ctc: float
    transducer: float
    gradient_norm: float


def _mean_of(values: Iterable[torch.Tensor | None]) -> float:
    """Return the mean over the replicas, or NaN if the phase does not have this loss."""
    return float(np.mean([float("nan") if value is None else value.item() for value in values]))


@dataclass(frozen=True)
class Draw:
    """Utterances, tokenizer and threads of a step."""

    pool: Pool
    tokenizer: ParakeetTokenizer
    threads: ThreadPoolExecutor


def train(place: Workplace, phases: tuple[Phase, ...], start: Path | None) -> None:
    """Train until the schedule ends or SIGTERM arrives; both leave state and checkpoint."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(MATMUL_PRECISION)
    keep_freed_pages()
    tokenizer = ParakeetTokenizer.from_pretrained(place.tokenizer)
    trainer = open_trainer(place, start)
    if moment(trainer.progress.audio_hours, phases) is None:
        raise SystemExit(
            f"the schedule has ended, at {trainer.progress.audio_hours:.1f} hours of audio: "
            "--extra-hours continues it, --fresh (without state in the work folder) starts anew"
        )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    with ThreadPoolExecutor(REPLICAS) as threads:
        Run(place, trainer, tokenizer, phases, stop, threads).until_done()


def open_trainer(place: Workplace, start: Path | None) -> Trainer:
    """Load the work folder's state if there is one, else the checkpoint `start`, else new weights.

    A checkpoint trained on more audio than the schedule has is at the end of it, ready for another
    cycle.
    """
    if place.state.exists() or start is None:
        trainer = Trainer(create_model(SEED))
        if place.state.exists():
            trainer.load(place.state)
        return trainer
    model = NemotronAsrStreamingForRNNT.from_pretrained(start, dtype=torch.float32)
    done = json.loads((start / "training.json").read_text())
    hours = min(done["audio_hours"], total_hours(PHASES))
    progress = Progress(done["steps"], hours, earlier_hours=done["audio_hours"] - hours)
    return Trainer(model, progress=progress)


@dataclass
class Run:
    """One process of the training: steps, log lines, evaluation on held-out speech, saves."""

    place: Workplace
    trainer: Trainer
    tokenizer: ParakeetTokenizer
    phases: tuple[Phase, ...]
    stop: threading.Event
    threads: ThreadPoolExecutor

    def until_done(self) -> None:
        """Train to the end of the schedule or until stopped, then save and evaluate."""
        self.saved_at = self.stepped_at = time.monotonic()
        self.reports: list[StepReport] = []
        while not self.stop.is_set() and self._round():
            pass
        self.trainer.save(self.place.state)
        self._look()

    def _round(self) -> bool:
        """Train on one round of batches; return False when the schedule has ended."""
        trainer, progress = self.trainer, self.trainer.progress
        now = moment(progress.audio_hours, self.phases)
        if now is None:
            return False
        draw = Draw(load_pool(self.place.features), self.tokenizer, self.threads)
        progress.rounds += 1
        seed = trainer.seed * 1_000_003 + progress.rounds
        batches = draw_round(draw.pool, now.phase, seed)
        for first in range(0, len(batches) - REPLICAS + 1, REPLICAS):
            now = moment(progress.audio_hours, self.phases)
            if now is None or self.stop.is_set():
                break
            hours_before = progress.audio_hours
            self.reports.append(trainer.step(batches[first : first + REPLICAS], draw, now))
            self._after_step(now, hours_before)
        return True

    def _after_step(self, now: Moment, hours_before: float) -> None:
        progress = self.trainer.progress
        seconds = time.monotonic()
        progress.seconds += seconds - self.stepped_at
        self.stepped_at = seconds
        if progress.steps % LOG_EVERY_STEPS == 0:
            self._log_steps(now)
        if progress.audio_hours // LOOK_EVERY_HOURS > hours_before // LOOK_EVERY_HOURS:
            self._look()
        if seconds - self.saved_at > SAVE_EVERY_SECONDS:
            self.trainer.save(self.place.state)
            self.saved_at = seconds

    def _log_steps(self, now: Moment) -> None:
        def mean(name: str) -> float | None:
            value = float(np.mean([getattr(report, name) for report in self.reports]))
            return round(value, 4) if np.isfinite(value) else None

        self._log(
            phase=now.phase.name,
            learning_rate=now.learning_rate,
            ctc_loss=mean("ctc"),
            transducer_loss=mean("transducer"),
            gradient_norm=mean("gradient_norm"),
            audio_seconds_per_step=mean("audio_seconds"),
        )
        self.reports.clear()

    def _look(self) -> None:
        """Save the averaged weights as a checkpoint and log their WER on held-out speakers."""
        trainer = self.trainer
        save_checkpoint(trainer.average, self.tokenizer, self.place.latest)
        audio_hours = trainer.progress.earlier_hours + trainer.progress.audio_hours
        progress = {"steps": trainer.progress.steps, "audio_hours": audio_hours}
        (self.place.latest / "training.json").write_text(json.dumps(progress) + "\n")
        for index in sorted(self.place.features.glob("dev-*.tsv")):
            spoken = read_shard(index)
            chosen = random.Random(0).sample(spoken, min(LOOK_UTTERANCES, len(spoken)))
            references = [utterance.text for utterance in chosen]
            arguments = (trainer.average, self.tokenizer, chosen, DEFAULT_LOOKAHEAD)
            by_ctc, by_transducer = transcribe_by_ctc(*arguments), transcribe(*arguments)
            self._log(
                look=index.stem,
                wer=round(word_error_rate(references, by_transducer), 4),
                ctc_wer=round(word_error_rate(references, by_ctc), 4),
                examples=list(zip(references, by_transducer, by_ctc, strict=True))[:3],
            )
        self.stepped_at = time.monotonic()

    def _log(self, **values: object) -> None:
        progress = self.trainer.progress
        place = {
            "steps": progress.steps,
            "audio_hours": round(progress.audio_hours, 3),
            "seconds": round(progress.seconds, 1),
        }
        with self.place.log.open("a") as lines:
            lines.write(json.dumps(place | values) + "\n")
