"""Read recordings from disk, and the `manifest.tsv` files that list them.

A set is a folder with a `manifest.tsv` that has the columns `file` and `transcript`. Scripts for
live users consist of clips, which may lack a transcript and must be 16 kHz mono. Comparisons of
recognizers need the transcripts, and resample recordings of other rates.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
INT16_PEAK = 32767
_AUDIO_SUFFIXES = (".flac", ".mp3", ".wav")
# soxr has no types.
_soxr: Any = soxr

Audio = NDArray[np.float32]
"""Samples [N] at 16 kHz, mono, from -1 to 1."""
Samples = NDArray[np.int16]
"""Samples [N] at 16 kHz, mono."""


@dataclass(frozen=True)
class Clip:
    """The samples of one recording and, if a manifest lists it, its transcript."""

    samples: Audio
    transcript: str | None


@dataclass(frozen=True)
class LabelledRecording:
    """An audio file of the set `speech_set` with its transcript."""

    speech_set: str
    path: Path
    transcript: str

    def read(self) -> Samples:
        """Return the samples, as `read_samples`."""
        return read_samples(self.path)


def read_samples(path: Path) -> Samples:
    """Return the samples of an audio file, resampled as the client would."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate_hz != SAMPLE_RATE_HZ:
        mono = _soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, "HQ")
    return np.rint(np.clip(mono, -1, 1) * INT16_PEAK).astype(np.int16)


def load_clips(folder: Path) -> list[Clip]:
    """Load all 16 kHz mono recordings below `folder`, in the order of their paths.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A manifest lacks a column.
    """
    manifests = folder.rglob("manifest.tsv")
    transcripts = dict(row for manifest in manifests for row in read_manifest(manifest))
    clips: list[Clip] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _AUDIO_SUFFIXES):
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        if rate_hz == SAMPLE_RATE_HZ and samples.shape[1] == 1:
            clips.append(Clip(samples[:, 0].astype(np.float32), transcripts.get(path)))
    if not clips:
        suffixes = ", ".join(_AUDIO_SUFFIXES)
        raise FileNotFoundError(f"no 16 kHz mono recording ({suffixes}) below {folder}")
    return clips


def find_recordings(folder: Path, sets: Sequence[str] | None = None) -> list[LabelledRecording]:
    """Find the recordings of all sets below `folder`, or of those in `sets`.

    Raises:
        FileNotFoundError: There is no manifest, or one names a file that does not exist.
        ValueError: A set is missing, a manifest lacks a column, or all manifests are empty.
    """
    manifests = sorted(folder.rglob("manifest.tsv"))
    if not manifests:
        raise FileNotFoundError(f"no manifest.tsv below {folder}: name a folder of recordings")
    present = [manifest.parent.name for manifest in manifests]
    if missing := set(sets or ()).difference(present):
        names = ", ".join(present)
        raise ValueError(f"no set {', '.join(sorted(missing))} below {folder}: {names}")
    chosen = [manifest for manifest in manifests if not sets or manifest.parent.name in sets]
    recordings = [recording for manifest in chosen for recording in _labelled(manifest)]
    if not recordings:
        raise ValueError(f"expected recordings below {folder}, but every manifest.tsv is empty")
    return recordings


def read_manifest(manifest: Path) -> list[tuple[Path, str]]:
    """Read the path and the transcript of each recording in `manifest`.

    Raises:
        ValueError: The column `file` or `transcript` is missing.
    """
    with manifest.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"file", "transcript"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{manifest} has no column {' or '.join(sorted(missing))}")
        return [(manifest.parent / row["file"], row["transcript"]) for row in rows]


def _labelled(manifest: Path) -> list[LabelledRecording]:
    rows = read_manifest(manifest)
    for path, _ in rows:
        if not path.is_file():
            raise FileNotFoundError(f"{manifest} names {path.name}, which does not exist")
    return [LabelledRecording(manifest.parent.name, *row) for row in rows]
