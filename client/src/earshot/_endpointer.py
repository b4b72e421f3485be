"""Find where speech ends in a stream, by the level of its audio.

Speech is what lies clearly above the background. Both levels are followed along the stream, so that
any gain and any steady noise will do, without a model and at little cost. Voices in the background
count as speech: the stream's tokens would tell no better, because the recognizer writes them down.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ._pcm import Samples

WINDOW_MS = 20
SHORTEST_SPEECH_MS = 60
"""Shorter sounds (a click, a key) neither begin speech nor prolong it."""

# Anything below is digital silence, which tells nothing about the background: a microphone that is
# muted, or a line that sends nothing between words.
_LEAST_POWER = 1e-8
# The background is the lowest level of this time: long enough to have a gap between sounds in it,
# and short enough to follow a noise that changes, as rain does.
_BACKGROUND_S = 2.0
_BLOCK_S = 0.5
# The loudness is the highest level of late; it follows a softer speaker at this rate.
_LOUDNESS_FALL_DB_PER_S = 2.0
# The share of the range from background to loudness, and the least distance from the background,
# above which a window is speech.
_SPEECH_SHARE = 0.2
_LEAST_CONTRAST_DB = 5.0


class Speech(NamedTuple):
    """A stretch of speech, in samples from the start of the stream."""

    start_sample: int
    end_sample: int


class SpeechEnd(NamedTuple):
    """The end of a stretch of speech, known after the silence that follows it."""

    speech: Speech
    offset: int
    """Samples of the piece at hand up to the point at which the end became known."""


class Endpointer:
    """Follows one stream; an end is known `endpoint_ms` after it."""

    def __init__(self, sample_rate_hz: int, endpoint_ms: int) -> None:
        self._window = WINDOW_MS * sample_rate_hz // 1000
        self._silence = endpoint_ms * sample_rate_hz // 1000
        self._shortest = SHORTEST_SPEECH_MS * sample_rate_hz // 1000
        self._threshold = _Threshold()
        self._ones = np.ones(self._window, np.float32)
        self._rest: Samples = np.empty(0, np.float32)
        self._position = 0
        self._sound_start: int | None = None
        self._speech: Speech | None = None

    def push(self, samples: Samples) -> Iterator[SpeechEnd]:
        """Add samples [n]; yield the ends that become known in them."""
        begin = self._position
        self._position += samples.size
        joined = np.concatenate((self._rest, samples)) if self._rest.size else samples
        end = begin - self._rest.size
        whole = joined.size - joined.size % self._window
        self._rest = joined[whole:].copy()
        for level_db in self._levels_db(joined[:whole]):
            end += self._window
            self._hear(end, self._threshold.is_speech(level_db))
            if self._has_ended(end):
                yield SpeechEnd(self._take(), end - begin)

    def cut(self) -> Speech | None:
        """End the speech at hand here; return it, or None if there is none."""
        if self._speech is None:
            return None
        return self._take()

    def _levels_db(self, samples: Samples) -> Iterator[float]:
        """Yield the level of each window in dBFS, without a constant offset, or -inf."""
        windows = samples.reshape(-1, self._window)
        sums = (windows @ self._ones).tolist()
        squares = np.einsum("ij,ij->i", windows, windows).tolist()
        for total, square in zip(sums, squares, strict=True):
            variance = square / self._window - (total / self._window) ** 2
            yield 10 * math.log10(variance) if variance > _LEAST_POWER else -math.inf

    def _hear(self, end: int, is_speech: bool) -> None:
        """Take in the window that ends at sample `end`."""
        if not is_speech:
            self._sound_start = None
            return
        if self._sound_start is None:
            self._sound_start = end - self._window
        if end - self._sound_start >= self._shortest:
            start = self._sound_start if self._speech is None else self._speech.start_sample
            self._speech = Speech(start, end)

    def _has_ended(self, position: int) -> bool:
        """Tell whether the speech has ended; a sound that has just begun may be more of it."""
        return (
            self._speech is not None
            and self._sound_start is None
            and position - self._speech.end_sample >= self._silence
        )

    def _take(self) -> Speech:
        speech = self._speech
        assert speech is not None
        self._speech = self._sound_start = None
        return speech


class _Threshold:
    """Tells speech from background by the levels of the last seconds."""

    def __init__(self) -> None:
        self._block_windows = round(_BLOCK_S * 1000 / WINDOW_MS)
        self._blocks_db: deque[float] = deque(maxlen=round(_BACKGROUND_S / _BLOCK_S))
        self._block_db = math.inf
        self._windows = 0
        self._loudness_db = -math.inf
        self._fall_db = _LOUDNESS_FALL_DB_PER_S * WINDOW_MS / 1000

    def is_speech(self, level_db: float) -> bool:
        """Take in the level of a window; tell whether it is speech."""
        if level_db == -math.inf:
            return False
        background_db = self._background_db(level_db)
        self._loudness_db = max(self._loudness_db - self._fall_db, level_db)
        contrast_db = _SPEECH_SHARE * (self._loudness_db - background_db)
        return level_db > background_db + max(contrast_db, _LEAST_CONTRAST_DB)

    def _background_db(self, level_db: float) -> float:
        """Return the lowest level of the last seconds, with this one."""
        self._block_db = min(self._block_db, level_db)
        self._windows += 1
        if self._windows == self._block_windows:
            self._blocks_db.append(self._block_db)
            self._block_db, self._windows = math.inf, 0
        return min(self._block_db, *self._blocks_db) if self._blocks_db else self._block_db
