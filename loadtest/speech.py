"""Continuous speech for load: real recordings joined end to end, no pause skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RECORDINGS = Path(__file__).parent.parent / "recordings"
SAMPLE_RATE_HZ = 16_000

Samples = NDArray[np.float32]


def load_speech(folder: Path = RECORDINGS) -> Samples:
    """All 16 kHz mono recordings below ``folder``, joined: float32 [N].

    Raises:
        FileNotFoundError: there are none.
    """
    return np.concatenate(load_files(folder))


def load_files(folder: Path = RECORDINGS) -> list[Samples]:
    """Each 16 kHz mono recording below ``folder`` by itself: float32 [N].

    Raises:
        FileNotFoundError: there are none.
    """
    files: list[Samples] = []
    for path in sorted((*folder.rglob("*.flac"), *folder.rglob("*.wav"))):
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        if rate_hz == SAMPLE_RATE_HZ and samples.shape[1] == 1:
            files.append(samples[:, 0].astype(np.float32))
    if not files:
        raise FileNotFoundError(f"no 16 kHz mono flac or wav file below {folder}")
    return files


def from_offset(speech: Samples, offset: int, length: int) -> Samples:
    """``length`` samples of endless ``speech``, beginning at ``offset``."""
    return np.take(speech, np.arange(offset, offset + length), mode="wrap")
