"""The options of a stream: chosen when it starts, in one value, and fixed from then on."""

from __future__ import annotations

from dataclasses import dataclass

from ._span import TRACE_EVERY

SHORTEST_ENDPOINT_MS = 100
LONGEST_TAG = 128


@dataclass(frozen=True)
class StreamOptions:
    """The behaviour of a stream beyond turning audio into text.

    endpoint_ms      the silence, in milliseconds, that ends an utterance (see `Utterance`); None:
                     the stream has no utterances
    keep_alive       send silence while the caller sends nothing, so that the server keeps the
                     stream; the times of later words do not count it
    keep_transcript  keep all words and tokens for `transcript`; without them, a stream may last for
                     months in the same memory, and has its results in `ChunkResult` alone
    tag              a name for the stream, in ASCII: results and errors have it, requests carry it
                     as their id and as the header `x-request-id`, for the logs of servers and
                     proxies; "" stands for a random one
    trace_every      if OpenTelemetry samples the span of the stream or file, one chunk or piece in
                     this many, beginning with the first, is traced through the server's stages
    """

    endpoint_ms: int | None = None
    keep_alive: bool = False
    keep_transcript: bool = True
    tag: str = ""
    trace_every: int = TRACE_EVERY

    def __post_init__(self) -> None:
        if not (self.tag.isascii() and self.tag.isprintable()) or len(self.tag) > LONGEST_TAG:
            raise ValueError(
                f"expected a tag of at most {LONGEST_TAG} printable ASCII characters, got "
                f"{self.tag!r}"
            )
        if self.trace_every < 1:
            raise ValueError(f"expected trace_every of at least 1, got {self.trace_every}")
        if self.endpoint_ms is not None and self.endpoint_ms < SHORTEST_ENDPOINT_MS:
            raise ValueError(
                f"expected endpoint_ms of at least {SHORTEST_ENDPOINT_MS}, got "
                f"{self.endpoint_ms}: words have shorter pauses inside"
            )

    @property
    def needs_stream(self) -> bool:
        """Return whether these options need a streaming recognizer."""
        return self.endpoint_ms is not None


NO_OPTIONS = StreamOptions()
