"""Spans of streams and files for OpenTelemetry, where the application records them.

A stream is one span, however long it is. Some of its chunks carry the span's context to the server,
which adds the spans of its stages. Without `opentelemetry-api` (`earshot-client[otel]`), or where
the application's sampler drops the span, nothing is recorded and nothing is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ._server_info import OfflineInfo, ServerInfo
from ._transcript import Resumption
from ._version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Span

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _installed = False
else:
    _installed = True

Headers: TypeAlias = "tuple[tuple[str, str], ...]"

TRACE_EVERY = 10
"""By default one chunk in so many carries the context of a recorded stream: a chunk brings some ten
spans of the server, and an hour of speech has thousands of chunks."""


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


def start_span(
    operation: str, info: ServerInfo | OfflineInfo, tag: str, trace_every: int
) -> ClientSpan:
    """Start the span of an operation, below the span in which its caller is."""
    if not _installed:
        return NO_SPAN
    host, _, port = info.url.rpartition(":")
    span = trace.get_tracer("earshot", __version__).start_span(
        f"{operation} {info.ensemble}",
        kind=trace.SpanKind.CLIENT,
        attributes={
            "server.address": host,
            "server.port": int(port),
            "earshot.recognizer": info.ensemble,
            "earshot.checkpoint": info.model,
            **({"earshot.tag": tag} if tag else {}),
            **({"earshot.chunk_ms": info.chunk_ms} if isinstance(info, ServerInfo) else {}),
        },
    )
    return _RecordedSpan(span, trace_every) if span.is_recording() else NO_SPAN


class _RecordedSpan(ClientSpan):
    """A span that the application records."""

    def __init__(self, span: Span, trace_every: int) -> None:
        self._span = span
        self._every = trace_every
        self._resumptions = 0
        # Triton traces whatever carries a context, also one that says that it is not sampled.
        self._context = _context(span) if span.get_span_context().trace_flags.sampled else ()

    def headers(self, index: int) -> Headers:
        return self._context if index % self._every == 0 else ()

    def resumed(self, resumption: Resumption) -> None:
        self._resumptions += 1
        self._span.add_event(
            "earshot.resumed",
            {
                "earshot.position_s": resumption.position_s,
                "earshot.gap_ms": resumption.gap_ms,
                "earshot.url": resumption.url,
                "earshot.cause": resumption.cause,
            },
        )

    def failed(self, error: BaseException) -> None:
        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(trace.StatusCode.ERROR, str(error))

    def end(self, audio_s: float, requests: int) -> None:
        if self._span.is_recording():
            self._span.set_attribute("earshot.audio_s", audio_s)
            self._span.set_attribute("earshot.requests", requests)
            self._span.set_attribute("earshot.resumptions", self._resumptions)
            self._span.end()


def _context(span: Span) -> Headers:
    """Return the headers of W3C's trace context, the only ones that Triton reads."""
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
    return tuple(headers.items())
