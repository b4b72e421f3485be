"""Define every number that relates audio samples to frames and chunks.

This is the streaming contract: a stream is `LEAD_SAMPLES` zeros, then the audio, then zeros
up to a whole number of chunks. With that lead every chunk has the same shape, and chunk `k` of
`T` encoder frames holds exactly the mel frames `8Tk - 7 .. 8Tk + 8T - 8` of the utterance.
"""

from __future__ import annotations

from export.errors import UnsupportedOption

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160
WINDOW_SAMPLES = 400
FFT_SAMPLES = 512
SUBSAMPLING = 8
LOG_GUARD = 2.0**-24

FRAME_SAMPLES = SUBSAMPLING * HOP_SAMPLES
"""Samples per encoder frame (80 ms)."""
FRAME_MS = 1000 * FRAME_SAMPLES // SAMPLE_RATE_HZ

LEAD_SAMPLES = 1024
"""Zeros before every stream; the smallest lead that gives the first chunk the shape of the
others."""
LEAD_MEL_FRAMES = SUBSAMPLING - 1
"""Mel frames of the first chunk that lie before the utterance and do not exist in the reference."""

TAIL_SAMPLES = LEAD_MEL_FRAMES * HOP_SAMPLES + WINDOW_SAMPLES // 2 - LEAD_SAMPLES
"""Pre-emphasised samples of the previous chunk that the first window of a chunk covers."""

SUPPORTED_CHUNK_MS = (80, 160, 320, 560, 1120)

assert FRAME_MS == 80
assert TAIL_SAMPLES == 296
# The last window of a chunk ends inside it and the next one outside, so no sample is delayed.
_LAST_WINDOW_END = (-LEAD_MEL_FRAMES + SUBSAMPLING - 1) * HOP_SAMPLES + WINDOW_SAMPLES // 2
assert _LAST_WINDOW_END + LEAD_SAMPLES <= FRAME_SAMPLES
assert _LAST_WINDOW_END + LEAD_SAMPLES + HOP_SAMPLES > FRAME_SAMPLES


def frames_per_chunk(chunk_ms: int) -> int:
    """Return T, the encoder frames in a chunk; the lookahead of the model is `T - 1`.

    Raises:
        UnsupportedOption: the chunk is not one of `SUPPORTED_CHUNK_MS`.
    """
    if chunk_ms not in SUPPORTED_CHUNK_MS:
        supported = ", ".join(map(str, SUPPORTED_CHUNK_MS))
        raise UnsupportedOption(
            f"chunk of {chunk_ms} ms is not supported; choose one of {supported}"
        )
    return chunk_ms // FRAME_MS


def chunk_count(samples: int, chunk_samples: int) -> int:
    """Return the number of chunks of an utterance: at least one, even for an empty utterance."""
    return -(-(samples + LEAD_SAMPLES) // chunk_samples)
