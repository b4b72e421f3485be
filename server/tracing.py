"""Traces of requests through the stages, which Triton sends to an OpenTelemetry collector.

A traced request has a span for itself, the ensemble, each stage and the stage's computation. Triton
traces every request that carries a trace context, whether or not that says that it is sampled:
clients choose, and send the context of few chunks. Of the others the server chooses one in so many.
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
    """Where traces go, and how many there are."""

    url: str
    """A collector's receiver of OTLP over HTTP; Triton sends JSON."""
    every: int = TRACE_EVERY
    """Of the requests without a trace context, one in so many is traced; 0: none."""

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
            # In a pod, its name.
            "opentelemetry,resource=service.instance.id": socket.gethostname(),
        }
        return [f"--trace-config={name}={value}" for name, value in settings.items()]
