"""The span of a stream or file, as the rest of the client sees it."""

from __future__ import annotations

from typing import TypeAlias

from ._transcript import Resumption

Headers: TypeAlias = "tuple[tuple[str, str], ...]"

TRACE_EVERY = 10
"""By default, one chunk in this many carries the trace context of a recorded stream: each such
chunk adds about ten spans of the server, and an hour of speech has thousands of chunks."""


class ClientSpan:
    """The span of a stream or file. This one records nothing."""

    def headers(self, index: int) -> Headers:
        """Return the headers that make the server trace the request of this number."""
        return ()

    def resumed(self, resumption: Resumption) -> None:
        """Note that another server carries the stream on."""

    def failed(self, error: BaseException) -> None:
        """Note the error that ends the stream or file."""

    def end(self, audio_s: float, requests: int) -> None:
        """End the span; only the first call counts."""


NO_SPAN = ClientSpan()
