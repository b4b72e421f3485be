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
    pieces: list[Samples] = []
    for path in sorted((*folder.rglob("*.flac"), *folder.rglob("*.wav"))):
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        if rate_hz == SAMPLE_RATE_HZ and samples.shape[1] == 1:
            pieces.append(samples[:, 0].astype(np.float32))
    if not pieces:
        raise FileNotFoundError(f"no 16 kHz mono flac or wav file below {folder}")
    return np.concatenate(pieces)


def from_offset(speech: Samples, offset: int, length: int) -> Samples:
    """``length`` samples of endless ``speech``, beginning at ``offset``."""
    return np.take(speech, np.arange(offset, offset + length), mode="wrap")
