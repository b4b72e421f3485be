"""Recordings of which somebody has written down what was said, as 16 kHz mono for any recognizer.

A set is a folder with a `manifest.tsv` that has the columns `file` and `transcript`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from loadtest.speech import SAMPLE_RATE_HZ, read_manifest

# soxr carries no types.
_soxr: Any = soxr

INT16_PEAK = 32767


@dataclass(frozen=True)
class Recording:
    """An audio file of the set ``speech_set``, and what was said."""

    speech_set: str
    path: Path
    said: str

    def read(self) -> NDArray[np.int16]:
        """Samples [N] at 16 kHz, mono, resampled as the client would."""
        samples, rate_hz = soundfile.read(self.path, dtype="float32", always_2d=True)
        mono = samples.mean(axis=1)
        if rate_hz != SAMPLE_RATE_HZ:
            mono = _soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, "HQ")
        return np.rint(np.clip(mono, -1, 1) * INT16_PEAK).astype(np.int16)


def find_recordings(folder: Path, sets: Sequence[str] | None = None) -> list[Recording]:
    """The recordings of all sets below ``folder``, or of those in ``sets``.

    Raises:
        FileNotFoundError: there is no manifest, or one names a file that is not there.
        ValueError: a set is missing, a manifest lacks a column, or all of them are empty.
    """
    manifests = sorted(folder.rglob("manifest.tsv"))
    if not manifests:
        raise FileNotFoundError(f"no manifest.tsv below {folder}: name a folder of recordings")
    there = [manifest.parent.name for manifest in manifests]
    if missing := set(sets or ()).difference(there):
        raise ValueError(f"no set {', '.join(sorted(missing))} below {folder}: {', '.join(there)}")
    chosen = [manifest for manifest in manifests if not sets or manifest.parent.name in sets]
    recordings = [recording for manifest in chosen for recording in _read(manifest)]
    if not recordings:
        raise ValueError(f"expected recordings below {folder}, but every manifest.tsv is empty")
    return recordings


def _read(manifest: Path) -> list[Recording]:
    found = [Recording(manifest.parent.name, *line) for line in read_manifest(manifest)]
    for recording in found:
        if not recording.path.is_file():
            raise FileNotFoundError(f"{manifest} names {recording.path.name}, which is not there")
    return found
