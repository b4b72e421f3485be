"""Build conversations with known pauses from real recordings, trimmed to their speech.

The reference for speech is the level within the whole clean recording: a window of 10 ms counts as
speech if it is at most 30 dB below the loudest one, and at least 8 dB above the quietest. Runs
shorter than 50 ms do not count. The endpointer under test sees neither the whole recording nor, if
noise was added, the clean one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio, LabelledRecording

WINDOW = SAMPLE_RATE_HZ // 100
PAUSES_MS = (1200, 1500, 2000, 3000)
"""Each pause is longer than the longest endpoint plus the time allowed to find it."""
NOISE_DB = -30.0
"""Level of the added noise, relative to that of the speech."""
_LEAST_DB = -65.0
_SPEECH_BELOW_LOUDEST_DB = 30.0
_SPEECH_ABOVE_QUIETEST_DB = 8.0
_SHORTEST_SPEECH = 5
_PARTS = 10

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Conversation:
    """Recordings joined with pauses, and the positions of their speech."""

    samples: Audio
    pauses: tuple[tuple[int, int], ...]
    """Start and end of each pause between recordings, in samples."""
    speech: Mask
    """For each window of 10 ms, true if the clean recording has speech in it."""
    transcript: str
    noisy: bool


def write_conversations(recordings: Sequence[LabelledRecording], seed: int) -> list[Conversation]:
    """Join the recordings, ten at a time and in random order; every other one has noise."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(recordings))
    groups = [order[first : first + _PARTS] for first in range(0, len(order), _PARTS)]
    return [
        _join([recordings[index] for index in group], random, noisy=number % 2 == 1)
        for number, group in enumerate(groups)
    ]


def speech_mask(samples: Audio) -> Mask:
    """Return true for each window that contains speech."""
    windows = samples[: samples.size // WINDOW * WINDOW].reshape(-1, WINDOW)
    power = np.mean(np.square(windows, dtype=np.float64), axis=1)
    levels_db = np.maximum(10 * np.log10(power + 1e-12), _LEAST_DB)
    quietest_db, loudest_db = np.percentile(levels_db, (5, 98))
    mask = levels_db > max(
        loudest_db - _SPEECH_BELOW_LOUDEST_DB, quietest_db + _SPEECH_ABOVE_QUIETEST_DB
    )
    for start, end in runs(mask):
        if end - start < _SHORTEST_SPEECH:
            mask[start:end] = False
    return mask


def runs(mask: Mask) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each run of true values."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).tolist()
    return zip(edges[::2], edges[1::2], strict=True)


def _join(
    recordings: Sequence[LabelledRecording], random: np.random.Generator, *, noisy: bool
) -> Conversation:
    parts: list[Audio] = []
    masks: list[Mask] = []
    pauses: list[tuple[int, int]] = []
    for recording in recordings:
        speech, mask = _trimmed(recording.read().astype(np.float32) / 32768)
        pause = int(random.choice(PAUSES_MS)) * SAMPLE_RATE_HZ // 1000
        parts += [speech, np.zeros(pause, np.float32)]
        masks += [mask, np.zeros(pause // WINDOW, bool)]
        end = sum(map(len, parts))
        pauses.append((end - pause, end))
    samples = np.concatenate(parts)
    speech = np.concatenate(masks)
    if noisy:
        level = np.sqrt(np.mean(samples.reshape(-1, WINDOW)[speech] ** 2))
        samples = samples + level * 10 ** (NOISE_DB / 20) * _pink_noise(samples.size, random)
    transcript = " ".join(recording.transcript for recording in recordings)
    return Conversation(samples.astype(np.float32), tuple(pauses), speech, transcript, noisy)


def _trimmed(samples: Audio) -> tuple[Audio, Mask]:
    """Return a recording from the first to the last window of its speech."""
    mask = speech_mask(samples)
    spoken = np.flatnonzero(mask)
    first, last = int(spoken[0]), int(spoken[-1]) + 1
    return samples[first * WINDOW : last * WINDOW], mask[first:last]


def _pink_noise(size: int, random: np.random.Generator) -> Audio:
    """Return noise [size] of mean square 1 with the spectrum of a quiet room: 1/f above 20 Hz."""
    spectrum = np.fft.rfft(random.standard_normal(size))
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    spectrum /= np.sqrt(np.maximum(frequencies, 20.0))
    noise = np.fft.irfft(spectrum, size)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)
