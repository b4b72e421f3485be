"""What recognition yields: tokens, words, the result of one chunk, and the whole transcript.

Times are those at which the recognizer emitted a token, on its grid of encoder frames, counted
from the start of the audio. They are no phone boundaries: a transducer may emit a token a little
after it was spoken.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Token:
    """One unit of the recognizer's vocabulary."""

    id: int
    text: str
    """What the token adds to the transcript, white space included."""
    frame: int
    """Encoder frame of its emission; `ServerInfo.frame_ms` each."""
    logprob: float
    """Natural logarithm of its probability."""


@dataclass(frozen=True, slots=True)
class Word:
    """A run of text without white space."""

    text: str
    start_ms: int
    """Start of the frame of its first token."""
    end_ms: int
    """End of the frame of its last token."""
    confidence: float
    """Geometric mean of its tokens' probabilities: comparable between short and long words."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What one chunk of audio added."""

    index: int
    """0 for the first chunk of the stream."""
    text: str
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    """Words that became final; the last word of `text` waits for what follows it."""
    sent_s: float
    """`time.monotonic()` when the chunk was handed to gRPC."""
    received_s: float
    """`time.monotonic()` when its text had come."""


@dataclass(frozen=True, slots=True)
class FailedSpan:
    """A part of a recording that has no text because the server failed on it."""

    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that has been recognized so far."""

    text: str
    words: tuple[Word, ...]
    tokens: tuple[Token, ...]
    duration_s: float
    """Length of the audio that was given."""
    failed: tuple[FailedSpan, ...] = ()
    """The spans of a file without text; empty for a stream, which raises instead."""
