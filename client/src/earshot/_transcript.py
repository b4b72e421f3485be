"""The results of recognition: tokens, words, the result of one chunk, and the transcript.

A time is that of the encoder frame at which the recognizer emitted a token, counted from the start
of the audio. It is not a phone boundary: a transducer may emit a token a little after it was
spoken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the recognizer's vocabulary."""

    id: int
    text: str
    """The text that the token adds to the transcript, including white space."""
    frame: int
    """Index of the encoder frame that emitted it; a frame lasts `ServerInfo.frame_ms`."""
    logprob: float
    """The natural logarithm of its probability."""


@dataclass(frozen=True, slots=True)
class Word:
    """A run of text without white space."""

    text: str
    start_ms: int
    """Start of the frame of its first token."""
    end_ms: int
    """End of the frame of its last token. If there is a pause between its tokens, because some were
    emitted with the next word, both times are those of the part with the most letters."""
    confidence: float
    """Geometric mean of the probabilities of its tokens, comparable between words of any length."""


@dataclass(frozen=True, slots=True)
class Label:
    """The label that a head of the recognizer gives a stream, based on all of its audio so far."""

    text: str
    """One of the labels of the head, which `ServerInfo.heads` lists."""
    probability: float


@dataclass(frozen=True, slots=True)
class Utterance:
    """The speech between two silences of at least `StreamOptions.endpoint_ms`."""

    text: str
    words: tuple[Word, ...]
    start_ms: int
    """Start of the speech, by the level of the audio."""
    end_ms: int
    """End of the speech. Words may lie a little later, because tokens may be emitted late."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """The continuation of a live stream on another server, or on its own after a restart."""

    position_s: float
    """The audio before this was recognized by the earlier server, the rest by the new one."""
    gap_ms: int
    """Time without new text: from sending the chunk that was not answered to its reply."""
    url: str
    """The server that carried the stream on."""
    cause: str


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """The text, tokens and words that one chunk of audio added."""

    index: int
    """0 for the first chunk of the stream."""
    text: str
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    """The words that became final; the last word of `text` is final when the next one begins."""
    sent_s: float
    """`time.monotonic()` when the chunk was handed to gRPC."""
    received_s: float
    """`time.monotonic()` when its text was received."""
    open_word: str = ""
    """The end of the transcript that is not yet a whole word: the next text may go on with it."""
    utterances: tuple[Utterance, ...] = ()
    """The utterance that ended, if any; always empty without `StreamOptions.endpoint_ms`."""
    tag: str = ""
    """The tag of the stream."""
    lag_s: float = 0.0
    """Seconds of audio that wait to be sent because replies take longer than their chunks last; 0
    if the caller had to wait for audio. It grows without bound on a network that is too slow."""
    resumed: Resumption | None = None
    """Set if this is the first result after the stream lost its server."""
    labels: Mapping[str, Label] = field(default_factory=dict[str, Label], hash=False)
    """The label of each head, by its name; empty for a recognizer without heads."""

    @property
    def is_final(self) -> bool:
        """Return whether the text is final. It always is: later results only add to it."""
        return True


@dataclass(frozen=True, slots=True)
class FailedSpan:
    """A span of a recording without text: the server failed on it, or the file is damaged there."""

    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of a stream or file so far, with its words and tokens."""

    text: str
    words: tuple[Word, ...]
    tokens: tuple[Token, ...]
    duration_s: float
    """Length of the audio."""
    failed: tuple[FailedSpan, ...] = ()
    """The spans of a file without text; empty for a stream, which raises instead."""
    warnings: tuple[str, ...] = ()
    """Problems of the audio, for example that it is truncated, or that its channels cancel each
    other."""
    utterances: tuple[Utterance, ...] = ()
    """The utterances that have ended; always empty without `StreamOptions.endpoint_ms`."""
    labels: Mapping[str, Label] = field(default_factory=dict[str, Label], hash=False)
    """The label of each head, by its name; empty for a recognizer without heads."""
