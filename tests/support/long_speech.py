"""Streams of real speech that are longer than its recordings."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from export.audio import SAMPLE_RATE_HZ
from export.recordings import load_recordings


def streams_of_speech(folder: Path, streams: int, length_s: int) -> list[np.ndarray]:
    """Join the recordings of a folder in random order to streams, samples [N] at 16 kHz."""
    recordings = load_recordings(folder)
    chance = random.Random(1)

    def stream() -> np.ndarray:
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < length_s * SAMPLE_RATE_HZ:
            parts.append(chance.choice(recordings).samples)
        return np.concatenate(parts)[: length_s * SAMPLE_RATE_HZ]

    return [stream() for _ in range(streams)]
