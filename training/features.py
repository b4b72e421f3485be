"""Store log-mel features on disk, computed once with the checkpoint's extractor.

A shard is `<name>.npy`, the concatenated frames of its utterances as float16 (frames, mel bins),
and `<name>.tsv`, with one line per utterance: frame count and transcript. The `.tsv` is written
last and atomically: a shard exists if its `.tsv` does. Utterances have exactly their valid frames,
floor(samples / hop).
"""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from transformers import NemotronAsrStreamingFeatureExtractor

from training.text import normalize

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160
MEL_BINS = 80
FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES

Frames = npt.NDArray[np.float16]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Utterance:
    """Log-mel frames (frames, mel bins) of one utterance, a slice of its shard, and its text."""

    frames: Frames
    text: str

    @property
    def seconds(self) -> float:
        """Return the length of the audio."""
        return len(self.frames) / FRAMES_PER_SECOND


@cache
def extractor() -> NemotronAsrStreamingFeatureExtractor:
    """Return the extractor: 80 mel bins, and otherwise the settings of published checkpoints."""
    return NemotronAsrStreamingFeatureExtractor(feature_size=MEL_BINS)


def log_mel(samples: Samples) -> Frames:
    """Return the valid log-mel frames (floor(samples / hop), mel bins) of one utterance."""
    if len(samples) < HOP_SAMPLES:
        return np.empty((0, MEL_BINS), np.float16)
    with torch.inference_mode():
        features = extractor()(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
    return features["input_features"][0, : len(samples) // HOP_SAMPLES].numpy().astype(np.float16)


def read_audio(path: Path, speed: float = 1.0) -> Samples:
    """Return mono samples at 16 kHz, played `speed` times as fast, which raises the pitch."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate_hz * speed, SAMPLE_RATE_HZ)


def write_shard(folder: Path, name: str, utterances: Iterable[tuple[Frames, str]]) -> None:
    """Write one shard atomically: if the process is killed, `read_shard` finds no part of it."""
    kept = [(frames, text) for frames, text in utterances if len(frames)]
    if not kept:
        raise ValueError(f"shard {name}: no utterance with a frame in it")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", np.concatenate([frames for frames, _ in kept]))
    partial = folder / f"{name}.tsv.partial"
    partial.write_text("".join(f"{len(frames)}\t{text}\n" for frames, text in kept))
    os.replace(partial, folder / f"{name}.tsv")


@cache
def read_shard(index: Path) -> list[Utterance]:
    """Read all utterances of a shard, given its `.tsv`, into memory.

    Training draws utterances in random order, so with memory maps larger than the page cache it
    would mostly wait for the disk.
    """
    frames: Frames = np.load(index.with_suffix(".npy"))
    utterances: list[Utterance] = []
    start = 0
    for line in index.read_text().splitlines():
        count, text = line.split("\t")
        utterances.append(Utterance(frames[start : start + int(count)], text))
        start += int(count)
    return utterances


@dataclass(frozen=True)
class Recording:
    """One line of a manifest: an audio file, its speaker and transcript."""

    path: Path
    speaker: str
    text: str


def read_manifest(folder: Path) -> list[Recording]:
    """Read `folder/manifest.tsv` (columns file, transcript and, optionally, speaker)."""
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Recording(folder / row["file"], row.get("speaker") or "", normalize(row["transcript"]))
        for row in rows
    ]
