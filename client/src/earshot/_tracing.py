"""Start spans if `opentelemetry-api` is installed (`earshot-client[otel]`); else do nothing."""

from __future__ import annotations

from ._server_info import OfflineInfo, ServerInfo
from ._span import NO_SPAN, ClientSpan

try:
    from ._otel import start_span
except ImportError:

    def start_span(
        operation: str, info: ServerInfo | OfflineInfo, tag: str, trace_every: int
    ) -> ClientSpan:
        """Return a span that records nothing."""
        return NO_SPAN


__all__ = ["start_span"]
