"""What Triton traces, and what the launcher refuses to send traces to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from server.errors import BadTracing
from server.launch import running
from server.tracing import Tracing
from tests.support.project import PROJECT
from tests.support.toy_streams import Stream, constant
from tests.support.traces import ATTEMPTS, collector

CALLER = "00000000000000d4"
"""The span of a caller that has not sampled it."""
SPANS = 6
"""Of a request to the toy recognizer: its own, the ensemble's, and two for each of two stages."""


@pytest.mark.triton
@pytest.mark.usefixtures("servers_end")
def test_one_request_in_so_many_is_traced_and_all_that_carry_a_context(
    toy_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.2")
    with (
        collector() as received,
        running(toy_repository, tracing=Tracing(received.url, every=3)) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        for _ in range(6):
            Stream(client).send(constant(0.0), end=True).result(timeout=60)
        trace_id = ""
        for attempt in range(1, ATTEMPTS + 1):
            trace_id = f"{attempt:032x}"
            headers = {"traceparent": f"00-{trace_id}-{CALLER}-00"}
            chunk = Stream(client).send(constant(0.0), end=True, headers=headers)
            chunk.result(timeout=60)
            if received.has(trace_id, SPANS):
                break
    roots = [span for span in received.spans if span.name == "InferRequest"]
    assert [span.parent_id for span in roots if span.trace_id == trace_id] == [CALLER]
    assert [span.parent_id for span in roots if span.trace_id != trace_id][:2] == ["", ""]
    assert {span.name for span in received.spans} == {
        *("InferRequest", "toy_streaming", "summer", "accumulator", "compute")
    }
    assert received.spans[0].resource["service.version"] == "1.2"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "collector:4318",
        "grpc://collector:4317/v1/traces",
        "http:///v1/traces",
        "http://c:4318/",
    ],
)
def test_a_url_that_no_collector_has_is_refused(url: str) -> None:
    with pytest.raises(BadTracing, match="such as http://collector:4318/v1/traces"):
        Tracing(url)


def test_the_command_names_its_mistake(toy_repository: Path) -> None:
    command = [sys.executable, "-m", "server", "--repository", str(toy_repository)]
    done = subprocess.run(
        [*command, "--otlp-url", "collector:4318"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "got 'collector:4318'" in done.stderr
