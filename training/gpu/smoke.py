"""Measure the milliseconds of a step by part, on random audio of realistic lengths."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from training.gpu.augment import Counts
from training.gpu.pool import Batch, Mixture
from training.gpu.sound import SoundShard
from training.gpu.train import Run, Settings, set_up
from training.schedule import CTC_WEIGHT

PARTS = ("features", "encoder", "ctc", "joint + lattice", "backward", "optimizer")
MIXTURE = Mixture(0.5, 0.95, 0.0)


def smoke(settings: Settings, sizes: tuple[float, ...], steps: int) -> None:
    """Print the time of each part, with waiting after it, and of whole steps without waiting.

    Args:
        settings: As for training; only the start checkpoint is read.
        sizes: Seconds of audio in a batch.
        steps: Steps to run per size.
    """
    set_up(settings.device)
    run = Run(replace(settings, sound=settings.run / "nothing", capacity_hours=3.0, invented=True))
    add_invented(run)
    for size in sizes:
        batches = run.pool.draw(replace(MIXTURE, batch_seconds=size), run.rng)
        for members in batches[:3]:
            timed_step(run, members, {})
        parts: dict[str, float] = {name: 0.0 for name in PARTS}
        for members in batches[3:9]:
            timed_step(run, members, parts)
        times = "  ".join(f"{name} {1000 * parts[name] / 6:.1f}" for name in PARTS)
        run.print(f"{size:.0f} s, parts in ms: {times}")
        whole(run, batches[9 : 9 + steps], size)
    profile(run, run.pool.draw(replace(MIXTURE, batch_seconds=sizes[-1]), run.rng)[:3])


def add_invented(run: Run) -> None:
    """Fill the pool with noise that has the lengths and label rates of read speech."""
    rng = np.random.default_rng(0)
    for name in ("real-invented", "tts-00000", "noise"):
        counts = np.sort((rng.gamma(4.0, 2.0, 400).clip(1.5, 20) * 16_000).astype(np.int64))
        samples = rng.integers(-3000, 3000, counts.sum()).astype(np.int16)
        texts = ["the wall was " * max(1, int(count / 16_000 * 0.9)) for count in counts]
        run.pool.add(name, SoundShard(samples, counts, texts))


def timed_step(run: Run, members: Counts, parts: dict[str, float]) -> None:
    """Run one step, waiting for the device after each part."""

    def timed(name: str, work: Callable[[], object]) -> object:
        wait(run)
        began = time.monotonic()
        result = work()
        wait(run)
        parts[name] = parts.get(name, 0.0) + time.monotonic() - began
        return result

    batch = timed("features", lambda: run.pool.batch(members, 0.95, run.rng))
    assert isinstance(batch, Batch)
    encoded = timed("encoder", lambda: run.step_of.encode(batch, 6))
    assert isinstance(encoded, Tensor)
    labels = sum(batch.label_lengths)
    ctc = timed("ctc", lambda: run.step_of.ctc(encoded, batch) / labels)
    lattice = timed("joint + lattice", lambda: run.step_of.lattice(encoded, batch) / labels)
    assert isinstance(ctc, Tensor) and isinstance(lattice, Tensor)
    total = CTC_WEIGHT * ctc + (1 - CTC_WEIGHT) * lattice
    timed("backward", lambda: total.backward())  # type: ignore[no-untyped-call]
    timed("optimizer", lambda: run.optimizer.step(1e-5))


def whole(run: Run, batches: list[Counts], size: float) -> None:
    """Time steps as in training."""
    wait(run)
    began, audio = time.monotonic(), 0.0
    for members in batches:
        batch = run.pool.batch(members, 0.95, run.rng)
        ctc, transducer = run.step_of.losses(batch, 6)
        (CTC_WEIGHT * ctc + (1 - CTC_WEIGHT) * transducer).backward()
        run.optimizer.step(1e-5)
        audio += batch.audio_seconds
    launched = time.monotonic() - began
    wait(run)
    seconds = time.monotonic() - began
    memory = torch.cuda.max_memory_allocated() / 1e9 if run.settings.device.type == "cuda" else 0.0
    run.print(
        f"{size:.0f} s, {len(batches)} whole steps: {1000 * seconds / len(batches):.1f} ms"
        f" (launched in {1000 * launched / len(batches):.1f}), {audio / seconds:.0f} s/s,"
        f" {audio / len(batches):.0f} s per step, {memory:.1f} GB"
    )


def profile(run: Run, batches: list[Counts]) -> None:
    """Print the kernels that take the most time."""
    if run.settings.device.type != "cuda":
        return
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    try:
        with record(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
            for members in batches:
                timed_step(run, members, {})
        averages = recorded.key_averages()
        print(
            averages.table(sort_by="self_cuda_time_total", row_limit=25, max_name_column_width=70)
        )
    except Exception as error:  # The table is optional.
        run.print(f"no profile: {error}")


def wait(run: Run) -> None:
    """Wait for the device."""
    if run.settings.device.type == "cuda":
        torch.cuda.synchronize()
