"""Spans as a collector of OpenTelemetry receives them from Triton, and those of the client."""

from __future__ import annotations

import functools
import json
import secrets
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from tests.support.launcher import wait_for

ATTEMPTS = 5
"""Triton does not see the context of one request in a hundred (`docs/operating.md`, "Traces")."""
SENT_EVERY_S = 5
"""Triton sends the spans of requests that have ended every so often."""


@dataclass(frozen=True)
class ServerSpan:
    """A span of the server; ids are in hexadecimal, as in the header `traceparent`."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: tuple[str, ...]


@dataclass
class Collector:
    """What a receiver of OTLP over HTTP has received.

    Wait for what should come before the server ends. It sends its spans every five seconds, and
    those of its last requests may be lost with it.
    """

    url: str
    spans: list[ServerSpan] = field(default_factory=list[ServerSpan])

    def wait_for(self, count: int) -> None:
        """Wait until at least `count` spans have come."""
        wait_for(lambda: len(self.spans) >= count)

    def has(self, trace_id: str, count: int) -> bool:
        """Wait until that trace has as many spans; give up after some times what Triton waits."""
        deadline_s = time.monotonic() + 6 * SENT_EVERY_S
        while time.monotonic() < deadline_s:
            if sum(each.trace_id == trace_id for each in self.spans) >= count:
                return True
            time.sleep(0.05)
        return False

    def path(self, span: ServerSpan, root_id: str) -> list[str]:
        """Return the names of the spans from below `root_id` down to `span`."""
        by_id = {each.span_id: each for each in self.spans}
        names = [span.name]
        while span.parent_id != root_id:
            span = by_id[span.parent_id]
            names.insert(0, span.name)
        return names


@contextmanager
def collector() -> Generator[Collector]:
    """Receive spans for the length of the block."""
    received = Collector("")

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/json"
            received.spans += _read(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        received.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


def _read(body: bytes) -> Iterable[ServerSpan]:
    for of_resource in json.loads(body)["resourceSpans"]:
        resource = _values(of_resource["resource"]["attributes"])
        for of_scope in of_resource["scopeSpans"]:
            for span in of_scope["spans"]:
                yield ServerSpan(
                    span["name"],
                    span["traceId"],
                    span["spanId"],
                    span.get("parentSpanId", ""),
                    _values(span.get("attributes", [])),
                    resource,
                    tuple(event["name"] for event in span.get("events", [])),
                )


def _values(attributes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in attributes}


@functools.cache
def _exporter() -> InMemorySpanExporter:
    """Install the provider of this process: it records what begins below a sampled span only."""
    provider = TracerProvider(sampler=ParentBased(root=ALWAYS_OFF))
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@dataclass
class Recording:
    """The spans of the client that began in the block of `recorded`."""

    trace_id: int

    @property
    def spans(self) -> list[ReadableSpan]:
        """Return those that have ended, in the order in which they did."""
        return [
            span
            for span in _exporter().get_finished_spans()
            if span.context is not None and span.context.trace_id == self.trace_id
        ]


@contextmanager
def recorded(*, sampled: bool = True) -> Generator[Recording]:
    """Be inside a span of another service, which has sampled its trace, or not."""
    _exporter()
    trace_id = secrets.randbits(128)
    parent = trace.SpanContext(
        trace_id, secrets.randbits(64), is_remote=True, trace_flags=trace.TraceFlags(sampled)
    )
    outer = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    token = context.attach(outer)
    try:
        yield Recording(trace_id)
    finally:
        context.detach(token)
