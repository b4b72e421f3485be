"""The options of a stream: chosen when it starts, in one value, and fixed from then on."""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST_ENDPOINT_MS = 100


@dataclass(frozen=True)
class StreamOptions:
    """What a stream does besides turning audio into text.

    endpoint_ms  the silence, in milliseconds, that ends an utterance (see `Utterance`); None: the
                 stream has no utterances
    """

    endpoint_ms: int | None = None

    def __post_init__(self) -> None:
        if self.endpoint_ms is not None and self.endpoint_ms < SHORTEST_ENDPOINT_MS:
            raise ValueError(
                f"expected endpoint_ms of at least {SHORTEST_ENDPOINT_MS}, got "
                f"{self.endpoint_ms}: words have shorter pauses inside"
            )


NO_OPTIONS = StreamOptions()
