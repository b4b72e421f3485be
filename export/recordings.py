"""Read the recordings of this repository: real speech for the parity gate."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from export.audio import SAMPLE_RATE_HZ

BUNDLED = Path(__file__).parent.parent / "recordings"


@dataclass(frozen=True)
class Recording:
    """One utterance: `samples` float32 [N] at 16 kHz mono, and its transcript."""

    path: Path
    samples: NDArray[np.float32]
    transcript: str

    @property
    def seconds(self) -> float:
        """Return the length of the audio."""
        return len(self.samples) / SAMPLE_RATE_HZ


def load_recordings(folder: Path = BUNDLED) -> list[Recording]:
    """Read every recording listed in a `manifest.tsv` in or below `folder`.

    A manifest has the columns `file` (relative to it) and `transcript`.

    Raises:
        FileNotFoundError: there is no manifest.
    """
    manifests = sorted(folder.rglob("manifest.tsv"))
    if not manifests:
        raise FileNotFoundError(f"no manifest.tsv in or below {folder}")
    recordings: list[Recording] = []
    for manifest in manifests:
        with manifest.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                path = manifest.parent / row["file"]
                recordings.append(Recording(path, _read(path), row["transcript"]))
    return recordings


def _read(path: Path) -> NDArray[np.float32]:
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ)
    return np.ascontiguousarray(mono, dtype=np.float32)
