"""Store shards of audio: concatenated 16-bit samples of utterances at 16 kHz, with an index.

A shard is `<name>.npy` and `<name>.tsv`, with one line per utterance: sample count and transcript.
The `.tsv` is written last and atomically: a shard exists if its `.tsv` does.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.features import Samples

Pcm = npt.NDArray[np.int16]


@dataclass(frozen=True)
class SoundShard:
    """All samples of a shard, with the sample count and text of each utterance, in order."""

    samples: Pcm
    counts: npt.NDArray[np.int64]
    texts: list[str]


def to_pcm(samples: Samples) -> Pcm:
    """Return 16-bit samples; values beyond the range are clipped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def write_sound(folder: Path, name: str, utterances: Iterable[tuple[Pcm, str]]) -> None:
    """Write one shard atomically: if the process is killed, `read_sound` finds no part of it."""
    kept = [(samples, text) for samples, text in utterances if len(samples)]
    if not kept:
        raise ValueError(f"shard {name}: no utterance with a sample in it")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", np.concatenate([samples for samples, _ in kept]))
    partial = folder / f"{name}.tsv.partial"
    partial.write_text("".join(f"{len(samples)}\t{text}\n" for samples, text in kept))
    os.replace(partial, folder / f"{name}.tsv")


def read_sound(index: Path) -> SoundShard:
    """Read a shard, given its `.tsv`."""
    rows = [line.split("\t") for line in index.read_text().splitlines()]
    return SoundShard(
        np.load(index.with_suffix(".npy"), mmap_mode="r"),
        np.array([int(count) for count, _ in rows], np.int64),
        [text for _, text in rows],
    )
