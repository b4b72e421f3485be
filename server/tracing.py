"""Traces of requests through the stages, which Triton sends to an OpenTelemetry collector.

A traced request has a span for itself, the ensemble, each stage and the stage's computation. Triton
traces every request with a trace context, whether or not the context is marked as sampled: clients
decide, and send a context with few chunks. Of the other requests, the server traces one in `every`.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import BadTracing

TRACE_EVERY = 1000
MAX_TRACE_EVERY = 2**31 - 1
_SERVICE = "earshot"


@dataclass(frozen=True)
class Tracing:
    """The destination of traces, and their share of the requests."""

    url: str
    """A collector's receiver of OTLP over HTTP; Triton sends JSON."""
    every: int = TRACE_EVERY
    """One in this many requests without a trace context is traced; 0: none."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or len(parts.path) < 2:
            raise BadTracing(
                f"expected the URL of a collector's receiver of OTLP over HTTP with its path, such "
                f"as http://collector:4318/v1/traces, got {self.url!r}"
            )

    def flags(self) -> list[str]:
        """Return Triton's flags; OTEL_RESOURCE_ATTRIBUTES adds to the attributes here."""
        settings = {
            "mode": "opentelemetry",
            "level": "TIMESTAMPS",
            "rate": self.every,
            "opentelemetry,url": self.url,
            "opentelemetry,resource=service.name": os.environ.get("OTEL_SERVICE_NAME") or _SERVICE,
            # In a pod, this is the name of the pod.
            "opentelemetry,resource=service.instance.id": socket.gethostname(),
        }
        return [f"--trace-config={name}={value}" for name, value in settings.items()]
