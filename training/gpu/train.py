"""Train on one GPU for a given time, from one checkpoint to a better one.

Nothing in a step waits for the device: all decisions are made on the CPU; audio, features,
augmentation, losses and the update run on the device, and figures are read every ten seconds.
"""

import copy
import json
import math
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import NemotronAsrStreamingForRNNT
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.fast_encoder import encode
from training.features import SAMPLE_RATE_HZ
from training.gpu.augment import Counts
from training.gpu.decode import ctc_ids, transducer_ids, word_errors
from training.gpu.lattice import TransducerLoss, choose_transducer_loss
from training.gpu.optimizer import Optimizer
from training.gpu.pieces import write_pieces
from training.gpu.pool import Batch, Pool
from training.gpu.schedule import learning_rate, mixture
from training.model import DEFAULT_LOOKAHEAD, joint_logits, save_checkpoint
from training.schedule import CTC_WEIGHT
from training.text import text_of

WEIGHTS_NAME = "weights.tar"
WEIGHTS_MIB = 15.0
LOG_SECONDS = 10.0
LOOK_SECONDS = 60.0
INGEST_SECONDS = 15.0
SHARDS_AT_ONCE = 40
LOOK_UTTERANCES = 64
LAST_SECONDS = 8.0
"""Time reserved for the last evaluation and the last checkpoint."""
DROPOUT = 0.1
LOOKAHEAD_WEIGHTS = {13: 2, 6: 4, 3: 2, 1: 1, 0: 1}


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        sound: Folder of audio shards, to which more may be added.
        start: The checkpoint to start from.
        run: Folder for log and checkpoint.
        results: Folder for the pieces of the checkpoint and a copy of the log.
        minutes: Time from the first update to the end.
        batch_seconds: Audio in a batch, including padding.
        peak_rate: Peak learning rate.
        capacity_hours: Audio that fits into the buffer on the device.
        device: Device of the training.
        kernel: True to try our own kernel for the lattice.
        invented: True if the caller provides the audio.
    """

    sound: Path
    start: Path
    run: Path
    results: Path
    minutes: float
    batch_seconds: float
    peak_rate: float
    capacity_hours: float
    device: torch.device
    kernel: bool = True
    invented: bool = False


@dataclass
class Step:
    """The losses of a batch and their gradients."""

    model: NemotronAsrStreamingForRNNT
    transducer: TransducerLoss

    def losses(self, batch: Batch, lookahead: int) -> tuple[Tensor, Tensor]:
        """Return CTC and transducer loss per label."""
        encoded = self.encode(batch, lookahead)
        total = max(1, sum(batch.label_lengths))
        return self.ctc(encoded, batch) / total, self.lattice(encoded, batch) / total

    def encode(self, batch: Batch, lookahead: int) -> Tensor:
        """Return the projected encoder frames."""
        dropout = partial(functional.dropout, p=DROPOUT) if self.model.training else None
        with self.autocast(batch):
            return encode(self.model, batch.mel, batch.mel_counts, lookahead, dropout)[0]

    def ctc(self, encoded: Tensor, batch: Batch) -> Tensor:
        """Return the sum of the CTC losses."""
        with self.autocast(batch):
            logits = joint_logits(self.model, encoded)
        losses = functional.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            batch.labels,
            batch.encoder_frames,  # type: ignore[arg-type]
            batch.label_lengths,  # type: ignore[arg-type]
            blank=self.model.config.blank_token_id,
            reduction="none",
            zero_infinity=True,
        )
        return losses.sum()

    def lattice(self, encoded: Tensor, batch: Batch) -> Tensor:
        """Return the sum of the transducer losses."""
        blank = self.model.config.blank_token_id
        with self.autocast(batch):
            history = functional.pad(batch.labels, (1, 0), value=blank)
            with torch.backends.cudnn.flags(enabled=True):
                predicted = self.model.decoder(history)
            summed = encoded.bfloat16()[:, :, None] + predicted.bfloat16()[:, None]
            logits = joint_logits(self.model, summed)
        frames = torch.tensor(batch.encoder_frames).to(batch.mel.device, non_blocking=True)
        return self.transducer(logits, batch.labels, frames, batch.label_counts, blank).sum()

    def autocast(self, batch: Batch) -> torch.autocast:
        """Return a context with matrix products in bfloat16."""
        return torch.autocast(batch.mel.device.type, torch.bfloat16)


@dataclass
class Figures:
    """Sums since the last line of the log."""

    began: float
    steps: int = 0
    audio_seconds: float = 0.0
    losses: list[Tensor] = field(default_factory=list)


class Run:
    """One call of `gpu-train`."""

    def __init__(self, settings: Settings) -> None:
        """Load the checkpoint and the existing audio."""
        self.settings = settings
        settings.run.mkdir(parents=True, exist_ok=True)
        settings.results.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        device = settings.device
        self.tokenizer = ParakeetTokenizer.from_pretrained(settings.start)
        model = NemotronAsrStreamingForRNNT.from_pretrained(settings.start, dtype=torch.float32)
        torch.nn.Module.to(model, device)
        self.model = model.train()
        self.average = copy.deepcopy(self.model).eval()
        self.average.requires_grad_(False)
        self.optimizer = Optimizer(self.model, self.average)
        self.step_of = Step(self.model, choose_transducer_loss(device, self.print, settings.kernel))
        self.pool = open_pool(settings, self.tokenizer)
        self.wait_for_sound()
        real, synthetic = self.pool.hours()
        self.print(f"sound: {real:.2f} h real, {synthetic:.2f} h synthetic")
        done = json.loads((settings.start / "training.json").read_text())
        self.steps, self.audio_hours = int(done["steps"]), float(done["audio_hours"])
        self.batch_seconds = settings.batch_seconds
        self.stopped = False
        self.rng = np.random.default_rng(self.steps)

    def print(self, line: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"[{time.monotonic() - self.began:6.1f}] {line}", flush=True)

    def wait_for_sound(self) -> None:
        """Add the existing shards; wait for the first recordings if there are none."""
        self.pool.add_shards(self.settings.sound)
        while not self.pool.real_weights.any() and not self.settings.invented:
            self.print("waiting for the first recordings")
            time.sleep(5)
            self.pool.add_shards(self.settings.sound)

    def until_done(self) -> None:
        """Train until the time is over or SIGTERM arrives; both leave a checkpoint."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        self.first_step = self.looked = self.ingested = time.monotonic()
        self.figures = Figures(self.first_step)
        try:
            while not self.over():
                self.round()
        finally:
            self.write_figures()
            self.save()
            self.look()
            self.save()  # Once more, for the log.
            self.print("done")

    def share(self) -> float:
        """Return the elapsed share of the time."""
        whole = 60 * self.settings.minutes - LAST_SECONDS
        return (time.monotonic() - self.first_step) / max(whole, 1.0)

    def over(self) -> bool:
        """Return whether the time is over."""
        return self.stopped or self.share() >= 1

    def round(self) -> None:
        """Train on some hundred new batches, until the time is over or the pool has grown."""
        for members in self.pool.draw(mixture(self.share(), self.batch_seconds), self.rng):
            if self.over():
                return
            try:
                self.step(members)
            except torch.cuda.OutOfMemoryError:
                self.model.zero_grad(set_to_none=False)
                torch.cuda.empty_cache()
                self.batch_seconds *= 0.7
                self.print(f"out of memory: batches of {self.batch_seconds:.0f} s from here on")
                return
            if self.attend():
                return

    def step(self, members: Counts) -> None:
        """Make one update."""
        share = self.share()
        augmented = mixture(share, self.batch_seconds).augmented_share
        batch = self.pool.batch(members, augmented, self.rng)
        weights = LOOKAHEAD_WEIGHTS
        lookahead = random.choices(list(weights), list(weights.values()))[0]
        ctc, transducer = self.step_of.losses(batch, lookahead)
        (CTC_WEIGHT * ctc + (1 - CTC_WEIGHT) * transducer).backward()
        norm = self.optimizer.step(learning_rate(share, self.settings.peak_rate))
        self.steps += 1
        self.audio_hours += batch.audio_seconds / 3600
        self.figures.steps += 1
        self.figures.audio_seconds += batch.audio_seconds
        self.figures.losses.append(torch.stack([ctc.detach(), transducer.detach(), norm]))

    def attend(self) -> bool:
        """Do whatever is due besides training; return True if the pool has grown."""
        now = time.monotonic()
        if now - self.figures.began > LOG_SECONDS:
            self.write_figures()
        if now - self.looked > LOOK_SECONDS and self.share() < 0.95:
            self.save()
            self.look()
            self.looked = time.monotonic()
        if now - self.ingested > INGEST_SECONDS:
            self.ingested = now
            return self.pool.add_shards(self.settings.sound, SHARDS_AT_ONCE) > 0
        return False

    def write_figures(self) -> None:
        """Write a line of the log for the steps since the last one."""
        figures = self.figures
        if not figures.steps:
            return
        means = torch.stack(figures.losses).nanmean(0).tolist()
        seconds = time.monotonic() - figures.began
        rate = learning_rate(self.share(), self.settings.peak_rate)
        ctc, transducer, norm = (round(value, 4) for value in means)
        real, synthetic = self.pool.hours()
        self.print(
            f"step {self.steps} {self.audio_hours:.1f} h  ctc {ctc:.3f} transducer"
            f" {transducer:.3f}  norm {norm:.2f} rate {rate:.1e}"
            f"  {1000 * seconds / figures.steps:.1f} ms/step"
            f" {figures.audio_seconds / seconds:.0f} s/s"
            f"  {_gigabytes(self.settings.device):.1f} GB  skipped"
            f" {int(self.optimizer.skipped.item())}  pool {real:.1f}+{synthetic:.1f} h"
        )
        self.log(
            learning_rate=rate,
            ctc_loss=_finite(ctc),
            transducer_loss=_finite(transducer),
            gradient_norm=_finite(norm),
            audio_seconds_per_step=round(figures.audio_seconds / figures.steps, 1),
        )
        self.figures = Figures(time.monotonic())

    def look(self) -> None:
        """Log word error rates of the averaged weights on held-out speakers."""
        began = time.monotonic()
        for corpus, members in sorted(self.pool.held_out.items()):
            chosen = random.Random(0).sample(members, min(LOOK_UTTERANCES, len(members)))
            if not chosen:
                continue
            ctc, transducer, words, example = self._transcribe(np.array(chosen))
            self.print(
                f"look {corpus}: WER {100 * transducer / words:.1f} CTC {100 * ctc / words:.1f}"
                f"  ({words} words)  {example}"
            )
            self.log(
                look=f"dev-{corpus}",
                wer=round(transducer / words, 4),
                ctc_wer=round(ctc / words, 4),
                example=example,
            )
        self.print(f"look took {time.monotonic() - began:.1f} s")

    @torch.no_grad()
    def _transcribe(self, members: Counts) -> tuple[int, int, int, str]:
        """Return word errors by CTC and by the transducer, word count, and one transcript."""
        batch = self.pool.batch(members, 0.0, np.random.default_rng(0))
        step = Step(self.average, self.step_of.transducer)
        encoded = step.encode(batch, DEFAULT_LOOKAHEAD).float()
        counts = torch.tensor(batch.encoder_frames, device=encoded.device)
        found = [
            ctc_ids(self.average, encoded, batch.encoder_frames),
            transducer_ids(self.average, encoded, counts),
        ]
        errors = [0, 0]
        words, example = 0, ""
        for row, member in enumerate(members):
            reference = self.pool.texts[member].split()
            words += len(reference)
            for way, ids in enumerate(found):
                example = text_of(self.tokenizer, ids[row])
                errors[way] += word_errors(reference, example.split())
        return errors[0], errors[1], words, example

    def save(self) -> None:
        """Write the averaged weights as a checkpoint and as pieces."""
        folder = self.settings.run / "latest"
        save_checkpoint(self.average, self.tokenizer, folder)
        progress = {"steps": self.steps, "audio_hours": self.audio_hours}
        (folder / "training.json").write_text(json.dumps(progress) + "\n")
        log = self.settings.run / "log.jsonl"
        if log.exists():
            shutil.copy(log, folder / "gpu_log.jsonl")
        write_pieces(folder, self.settings.results, WEIGHTS_NAME, WEIGHTS_MIB)

    def log(self, **values: object) -> None:
        """Append a line of JSON."""
        where = {
            "steps": self.steps,
            "audio_hours": round(self.audio_hours, 3),
            "seconds": round(time.monotonic() - self.first_step, 1),
        }
        with (self.settings.run / "log.jsonl").open("a") as lines:
            lines.write(json.dumps(where | values) + "\n")


def open_pool(settings: Settings, tokenizer: ParakeetTokenizer) -> Pool:
    """Return an empty pool of the requested size."""

    def tokenize(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts)["input_ids"]  # type: ignore[no-any-return]

    capacity = round(settings.capacity_hours * 3600 * SAMPLE_RATE_HZ)
    return Pool(settings.device, capacity, tokenize)


def train_on_gpu(settings: Settings) -> None:
    """Train; write checkpoint, log and pieces."""
    set_up(settings.device)
    Run(settings).until_done()


def set_up(device: torch.device) -> None:
    """Set the options of torch for the whole process."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(1)
    if device.type == "cuda":
        torch.cuda.init()
        # cuDNN plans each convolution for every new shape, and almost every batch has a new one.
        torch.backends.cudnn.enabled = False


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _gigabytes(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
