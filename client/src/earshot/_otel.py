"""Spans of streams and files for OpenTelemetry, if the application records any.

A stream is one span, however long it is. Some of its chunks carry the span's context to the server,
which adds the spans of its stages. If the application's sampler drops a stream, nothing is recorded
and nothing is sent.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ._server_info import OfflineInfo, ServerInfo
from ._span import NO_SPAN, ClientSpan, Headers
from ._transcript import Resumption
from ._version import __version__


def start_span(
    operation: str, info: ServerInfo | OfflineInfo, tag: str, trace_every: int
) -> ClientSpan:
    """Start the span of an operation, as a child of the caller's current span."""
    host, _, port = info.url.rpartition(":")
    attributes: dict[str, str | int] = {
        "server.address": host,
        "server.port": int(port),
        "earshot.recognizer": info.ensemble,
        "earshot.checkpoint": info.model,
    }
    if isinstance(info, ServerInfo):
        attributes["earshot.chunk_ms"] = info.chunk_ms
    if tag:
        attributes["earshot.tag"] = tag
    span = trace.get_tracer("earshot", __version__).start_span(
        f"{operation} {info.ensemble}", kind=trace.SpanKind.CLIENT, attributes=attributes
    )
    return _RecordedSpan(span, trace_every) if span.is_recording() else NO_SPAN


class _RecordedSpan(ClientSpan):
    """A span that the application records."""

    def __init__(self, span: trace.Span, trace_every: int) -> None:
        self._span = span
        self._every = trace_every
        self._resumptions = 0
        # Triton traces every request with a context, even if the context is marked as not sampled.
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
        if self._span.is_recording():
            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(trace.StatusCode.ERROR, str(error))

    def end(self, audio_s: float, requests: int) -> None:
        if self._span.is_recording():
            self._span.set_attribute("earshot.audio_s", audio_s)
            self._span.set_attribute("earshot.requests", requests)
            self._span.set_attribute("earshot.resumptions", self._resumptions)
            self._span.end()


def _context(span: trace.Span) -> Headers:
    """Return the headers of W3C's trace context, the only ones that Triton reads."""
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
    return tuple(headers.items())
