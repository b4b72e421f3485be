"""The format of raw audio: rate, channels and encoding, and the channel to transcribe."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ._errors import InvalidAudio

Encoding: TypeAlias = Literal["linear16", "mulaw", "alaw"]
"""The encoding of bytes: linear16 is int16, little-endian; mulaw and alaw are those of G.711."""
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

# Outside of this range, soxr hangs or allocates all memory; no recorder uses such rates.
_MIN_RATE_HZ = 1_000
_MAX_RATE_HZ = 768_000


@dataclass(frozen=True)
class AudioFormat:
    """The format of raw audio."""

    sample_rate_hz: float
    channels: int = 1
    """Channels of the audio, interleaved."""
    encoding: Encoding = "linear16"
    """The encoding of audio passed as bytes; arrays have a dtype instead."""
    channel: int | None = None
    """The channel to transcribe, from 1; None averages all."""

    def __post_init__(self) -> None:
        # Comparisons with NaN are false, so this catches it too.
        if (
            not isinstance(self.sample_rate_hz, Real)
            or not _MIN_RATE_HZ <= self.sample_rate_hz <= _MAX_RATE_HZ
        ):
            raise InvalidAudio(
                f"expected sample_rate_hz from {_MIN_RATE_HZ} to {_MAX_RATE_HZ}, "
                f"got {self.sample_rate_hz!r}"
            )
        if not isinstance(self.channels, Integral) or self.channels < 1:
            raise InvalidAudio(f"expected channels of at least 1, got {self.channels!r}")
        if self.encoding not in ENCODINGS:
            raise InvalidAudio(
                f"expected an encoding of {', '.join(ENCODINGS)}, got {self.encoding!r}"
            )
        if self.channel is not None and not 1 <= self.channel <= self.channels:
            raise InvalidAudio(
                f"expected a channel from 1 to {self.channels}, which the audio has, "
                f"got {self.channel!r}"
            )

    @property
    def bytes_per_sample(self) -> int:
        """Return the bytes of one sample of one channel."""
        return 2 if self.encoding == "linear16" else 1

    def decode(self, data: bytes) -> npt.NDArray[np.int16]:
        """Decode bytes that hold a whole number of samples."""
        if self.encoding == "linear16":
            return np.frombuffer(data, dtype="<i2")
        return _G711[self.encoding][np.frombuffer(data, dtype=np.uint8)]


def _mulaw() -> npt.NDArray[np.int16]:
    """Return the sample of each byte of mu-law (ITU-T G.711): inverted sign, exponent, mantissa."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = (((mantissa << 3) + 132) << exponent) - 132
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw() -> npt.NDArray[np.int16]:
    """Return the sample of each byte of A-law (ITU-T G.711), whose even bits are inverted."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    step = (mantissa << 4) + 8
    magnitude = np.where(exponent == 0, step, (step + 256) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_G711: dict[str, Any] = {"mulaw": _mulaw(), "alaw": _alaw()}
