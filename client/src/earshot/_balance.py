"""Detect channels that cancel each other when they are averaged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Balance:
    """Compares the energy of the channels with that of their mean.

    The mean of n independent channels has 1/n of the energy of one. Far less is left only if they
    cancel each other, for example because a plug inverts one of two.
    """

    # 13 dB below independent channels.
    _CANCELLED = 0.05
    # Below this mean square, audio is noise, which says nothing about the channels.
    _SILENCE = 1e-7

    def __init__(self) -> None:
        self._values = 0
        self._apart = 0.0
        self._mean = 0.0

    def add(self, frames: npt.NDArray[np.float32], mono: npt.NDArray[np.float32]) -> None:
        """Add samples [n, channels], and their mean [n]."""
        self._values += frames.size
        self._apart += float(np.square(frames).sum(dtype=np.float64))
        # For independent channels, both sums are equal.
        self._mean += float(np.square(mono).sum(dtype=np.float64)) * frames.shape[1] ** 2

    @property
    def cancels(self) -> bool:
        """Return whether the channels cancel each other."""
        audible = self._apart > self._SILENCE * self._values
        return audible and self._mean < self._CANCELLED * self._apart
