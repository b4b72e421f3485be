"""Convert pieces of PCM to mono float32 at the model's rate.

Every step works sample by sample or keeps its state, so the result is the same, to the last bit,
however the audio was cut into pieces; a test checks this for soxr's streaming resampler.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from ._balance import Balance
from ._errors import InvalidAudio
from ._format import AudioFormat

# soxr has no types.
_soxr: Any = soxr

Samples: TypeAlias = npt.NDArray[np.float32]
Pcm: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.int16] | npt.NDArray[np.float32]
"""int16 or float32 samples, [n] interleaved or [frames, channels]; bytes are int16, little-endian.
Other buffers, such as array.array, are read according to their format.

A piece may end anywhere, even inside a sample. Floats are in [-1, 1]."""

_INT16_SCALE = np.float32(1 / 32768)
# Decoders exceed 1.0 slightly, microphones with gain by more, and int16 values that were cast to
# float by thousands.
_PEAK_LIMIT = 8.0


class PcmReader:
    """Converts the pieces of one stream to mono at the rate of the model."""

    def __init__(self, form: AudioFormat, model_rate_hz: int) -> None:
        self._form = form
        self._part_of_sample = b""
        self._part_of_frame: Samples = np.empty(0, dtype=np.float32)
        self._frames = 0
        self._balance = Balance()
        self._resampler: Any = (
            None
            if form.sample_rate_hz == model_rate_hz
            else _soxr.ResampleStream(form.sample_rate_hz, model_rate_hz, 1, "float32", "HQ")
        )

    @property
    def duration_s(self) -> float:
        """Return the length of the audio read so far, in seconds."""
        return self._frames / self._form.sample_rate_hz

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the problems found in the audio read so far."""
        if not self._balance.cancels:
            return ()
        return (
            f"the {self._form.channels} channels cancel each other when they are averaged, as if "
            "one were inverted: choose one with `channel` (--channel)",
        )

    def read(self, piece: Pcm) -> Samples:
        """Return mono samples [n] at the model's rate; raise InvalidAudio and ignore the piece."""
        mono = self._mix_down(self._interleaved(piece))
        self._frames += mono.size
        return mono if self._resampler is None else self._resampler.resample_chunk(mono)

    def flush(self) -> Samples:
        """Return the samples that the resampler still holds, and reset it."""
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
            whole = len(data) - len(data) % self._form.bytes_per_sample
            self._part_of_sample = data[whole:]
            return _as_float(self._form.decode(data[:whole]))
        try:
            return _as_float(self._flat(piece))
        except _Unfit as error:
            raise InvalidAudio(self._locate(error)) from None

    def _flat(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if array.ndim == 1:
            return array
        if array.ndim == 2 and array.shape[1] == self._form.channels:
            return array.reshape(-1)
        raise InvalidAudio(
            f"expected an array [n] or [frames, {self._form.channels}], got shape {array.shape}"
        )

    def _locate(self, error: _Unfit) -> str:
        """Return the message for a sample that is not finite, with its place in the audio."""
        frame = self._frames + (self._part_of_frame.size + error.index) // self._form.channels
        return (
            f"sample {frame}, at {frame / self._form.sample_rate_hz:.3f} s, is {error.value}: "
            "audio must be finite"
        )

    def _mix_down(self, samples: Samples) -> Samples:
        """Return the chosen channel, or the mean, summed in the same order for any piece size."""
        channels = self._form.channels
        if channels == 1:
            return samples
        if self._part_of_frame.size:
            samples = np.concatenate((self._part_of_frame, samples))
        whole = samples.size - samples.size % channels
        self._part_of_frame = samples[whole:].copy()
        frames = samples[:whole].reshape(-1, channels)
        if self._form.channel is not None:
            return frames[:, self._form.channel - 1].copy()
        mono = frames[:, 0].copy()
        for channel in range(1, channels):
            mono += frames[:, channel]
        mono /= channels
        self._balance.add(frames, mono)
        return mono


class _Unfit(Exception):
    """A sample that is not finite."""

    def __init__(self, index: int, value: float) -> None:
        self.index = index
        self.value = value


def _from_buffer(piece: Any) -> bytes | npt.NDArray[Any]:
    """Return the bytes of a buffer of bytes, or an array of a buffer with another format."""
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
        bad = np.flatnonzero(~np.isfinite(samples))
        if bad.size:
            raise _Unfit(int(bad[0]), float(samples[bad[0]]))
        raise InvalidAudio(
            f"expected float samples in [-1, 1], got a peak of {np.abs(samples).max():g}: if they "
            "are int16 values, pass them as int16 or divide by 32768"
        )
    return samples.astype(np.float32, copy=False)
