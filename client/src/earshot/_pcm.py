"""Convert pieces of PCM to mono float32 at the model's rate.

Every step works sample by sample or keeps its state. So the result is the same, to the last bit,
however the audio was cut into pieces; a test checks this for soxr's streaming resampler.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from ._errors import InvalidAudio

# soxr carries no types.
_soxr: Any = soxr

Samples: TypeAlias = npt.NDArray[np.float32]
Pcm: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.int16] | npt.NDArray[np.float32]
"""int16 or float32 samples, [n] interleaved or [frames, channels]; bytes are int16, little-endian.
Other buffers, such as array.array, are taken for what their format says.

A piece may end anywhere, even inside a sample. Floats are in [-1, 1].
"""

# Outside of this range, soxr hangs or allocates all memory; no recorder uses such rates.
_MIN_RATE_HZ = 1_000
_MAX_RATE_HZ = 768_000
_INT16_SCALE = np.float32(1 / 32768)
# Decoders exceed 1.0 a little, a microphone with gain by more, and int16 values that were cast to
# float by thousands.
_PEAK_LIMIT = 8.0


class PcmReader:
    """Converts the pieces of one stream."""

    def __init__(self, sample_rate_hz: float, channels: int, model_rate_hz: int) -> None:
        # Comparisons with NaN are false, so this catches it too.
        if (
            not isinstance(sample_rate_hz, Real)
            or not _MIN_RATE_HZ <= sample_rate_hz <= _MAX_RATE_HZ
        ):
            raise InvalidAudio(
                f"expected sample_rate_hz from {_MIN_RATE_HZ} to {_MAX_RATE_HZ}, "
                f"got {sample_rate_hz!r}"
            )
        if not isinstance(channels, Integral) or channels < 1:
            raise InvalidAudio(f"expected channels of at least 1, got {channels!r}")
        self._rate_hz = sample_rate_hz
        self._channels = channels
        self._part_of_sample = b""
        self._part_of_frame: Samples = np.empty(0, dtype=np.float32)
        self._frames = 0
        self._resampler: Any = (
            None
            if sample_rate_hz == model_rate_hz
            else _soxr.ResampleStream(sample_rate_hz, model_rate_hz, 1, "float32", "HQ")
        )

    @property
    def duration_s(self) -> float:
        """Return the length of the audio read so far."""
        return self._frames / self._rate_hz

    def read(self, piece: Pcm) -> Samples:
        """Return mono samples [n] at the model's rate; raise InvalidAudio and ignore the piece."""
        mono = self._mix_down(self._interleaved(piece))
        self._frames += mono.size
        return mono if self._resampler is None else self._resampler.resample_chunk(mono)

    def flush(self) -> Samples:
        """Return the samples that the resampler still held, which then begins anew."""
        nothing = np.empty(0, dtype=np.float32)
        if self._resampler is None:
            return nothing
        held = self._resampler.resample_chunk(nothing, True)
        self._resampler.clear()
        return held

    def _interleaved(self, piece: Any) -> Samples:
        if not hasattr(piece, "dtype"):
            piece = _from_buffer(piece)
        if isinstance(piece, bytes):
            data = self._part_of_sample + piece
            whole = len(data) // 2
            self._part_of_sample = data[2 * whole :]
            return _as_float(np.frombuffer(data, dtype="<i2", count=whole))
        return _as_float(self._flat(piece))

    def _flat(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if array.ndim == 1:
            return array
        if array.ndim == 2 and array.shape[1] == self._channels:
            return array.reshape(-1)
        raise InvalidAudio(
            f"expected an array [n] or [frames, {self._channels}], got shape {array.shape}"
        )

    def _mix_down(self, samples: Samples) -> Samples:
        """Return the mean of the channels, added in an order that no piece size changes."""
        if self._channels == 1:
            return samples
        if self._part_of_frame.size:
            samples = np.concatenate((self._part_of_frame, samples))
        whole = samples.size - samples.size % self._channels
        self._part_of_frame = samples[whole:].copy()
        frames = samples[:whole].reshape(-1, self._channels)
        mono = frames[:, 0].copy()
        for channel in range(1, self._channels):
            mono += frames[:, channel]
        mono /= self._channels
        return mono


def _from_buffer(piece: Any) -> bytes | npt.NDArray[Any]:
    """Return the bytes of a buffer of bytes, or an array of one that says what it holds."""
    try:
        view = memoryview(piece)
    except TypeError:
        raise InvalidAudio(f"expected bytes or a numpy array, got {type(piece).__name__}") from None
    return view.tobytes() if view.itemsize == 1 else np.asarray(view)


def _as_float(samples: npt.NDArray[Any]) -> Samples:
    if samples.dtype == np.int16:
        return samples.astype(np.float32) * _INT16_SCALE
    if samples.dtype.type not in (np.float32, np.float64):
        raise InvalidAudio(f"expected int16 or float32 samples, got {samples.dtype}")
    # Comparisons with NaN are false, so this catches it too.
    if samples.size and not (samples.min() >= -_PEAK_LIMIT and samples.max() <= _PEAK_LIMIT):
        raise InvalidAudio(_describe_invalid(samples))
    return samples.astype(np.float32, copy=False)


def _describe_invalid(samples: npt.NDArray[Any]) -> str:
    bad = np.flatnonzero(~np.isfinite(samples))
    if bad.size:
        return f"sample {bad[0]} of the piece is {samples[bad[0]]}: audio must be finite"
    peak = float(np.abs(samples).max())
    return (
        f"expected float samples in [-1, 1], got a peak of {peak:g}: if they are int16 values, "
        "pass them as int16 or divide by 32768"
    )
