"""Find where speech ends in a stream, by the level of its audio.

Speech is sound clearly above the background. Both levels are tracked along the stream, so that this
works with any gain and any steady noise, without a model and at little cost. Voices in the
background count as speech. The tokens could not tell them apart either, because the recognizer
transcribes such voices.
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

# Anything below is digital silence, which says nothing about the background: the microphone is
# muted, or the line sends nothing between words.
_LEAST_POWER = 1e-8
# The background is the lowest level within this time, which is long enough to include a gap between
# sounds, and short enough to follow changing noise such as rain.
_BACKGROUND_S = 2.0
_BLOCK_S = 0.5
# The loudness is the highest recent level; it falls at this rate to follow a softer speaker.
_LOUDNESS_FALL_DB_PER_S = 2.0
# A window is speech if its level exceeds the background by this share of the range from background
# to loudness, and by at least this contrast.
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
    """Samples of the pushed piece up to the point at which the end became known."""


class Endpointer:
    """Detects the ends of speech in one stream, `endpoint_ms` after each of them."""

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
        """Add samples [n]; yield each end of speech that they reveal."""
        begin = self._position
        self._position += samples.size
        joined = np.concatenate((self._rest, samples)) if self._rest.size else samples
        end = begin - self._rest.size
        whole = joined.size - joined.size % self._window
        self._rest = joined[whole:].copy()
        for level_db in self._levels_db(joined[:whole]):
            end += self._window
            self._add_window(end, self._threshold.is_speech(level_db))
            if self._has_ended(end):
                yield SpeechEnd(self._take(), end - begin)

    def cut(self) -> Speech | None:
        """End the current speech here; return it, or None if there is none."""
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

    def _add_window(self, end: int, is_speech: bool) -> None:
        """Update the current speech with the window that ends at sample `end`."""
        if not is_speech:
            self._sound_start = None
            return
        if self._sound_start is None:
            self._sound_start = end - self._window
        if end - self._sound_start >= self._shortest:
            start = self._sound_start if self._speech is None else self._speech.start_sample
            self._speech = Speech(start, end)

    def _has_ended(self, position: int) -> bool:
        """Return whether the speech has ended; a sound that has just begun may continue it."""
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
    """Distinguishes speech from background by the levels of the last seconds."""

    def __init__(self) -> None:
        self._block_windows = round(_BLOCK_S * 1000 / WINDOW_MS)
        self._blocks_db: deque[float] = deque(maxlen=round(_BACKGROUND_S / _BLOCK_S))
        self._block_db = math.inf
        self._windows = 0
        self._loudness_db = -math.inf
        self._fall_db = _LOUDNESS_FALL_DB_PER_S * WINDOW_MS / 1000

    def is_speech(self, level_db: float) -> bool:
        """Update both levels with that of a window; return whether the window is speech."""
        if level_db == -math.inf:
            return False
        background_db = self._background_db(level_db)
        self._loudness_db = max(self._loudness_db - self._fall_db, level_db)
        contrast_db = _SPEECH_SHARE * (self._loudness_db - background_db)
        return level_db > background_db + max(contrast_db, _LEAST_CONTRAST_DB)

    def _background_db(self, level_db: float) -> float:
        """Return the lowest level of the last seconds, including this one."""
        self._block_db = min(self._block_db, level_db)
        self._windows += 1
        if self._windows == self._block_windows:
            self._blocks_db.append(self._block_db)
            self._block_db, self._windows = math.inf, 0
        return min(self._block_db, *self._blocks_db) if self._blocks_db else self._block_db
