"""Through the deployed Envoy, contexts that their callers have not sampled make no traces."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from server.launch import running
from server.tracing import Tracing
from tests.support.envoy import envoy
from tests.support.toy_repository import write_toy_repository
from tests.support.toy_streams import Stream, constant
from tests.support.traces import ATTEMPTS, collector

NOT_SAMPLED = "00-0000000000000000000000000000e000-00000000000000d4-00"
SPANS = 6
"""Of one chunk."""


@pytest.mark.triton
@pytest.mark.usefixtures("servers_end")
def test_a_context_that_is_not_sampled_ends_at_envoy(tmp_path: Path) -> None:
    repository = write_toy_repository(tmp_path / "repository")
    with (
        collector() as received,
        running(repository, tracing=Tracing(received.url, every=0)) as triton,
        envoy(tmp_path, [triton.grpc_url], "--set", f"tracing.url={received.url}") as proxy,
        InferenceServerClient(proxy.url) as client,
    ):
        proxy.wait_for_health(triton.grpc_url, healthy=True)
        _send(client, NOT_SAMPLED)
        trace_id = ""
        for attempt in range(1, ATTEMPTS + 1):
            trace_id = f"{attempt:032x}"
            _send(client, f"00-{trace_id}-00000000000000d4-01")
            if received.has(trace_id, SPANS):
                break
    assert {span.trace_id for span in received.spans} == {trace_id}


def _send(client: InferenceServerClient, context: str) -> None:
    chunk = Stream(client).send(constant(0.0), end=True, headers={"traceparent": context})
    chunk.result(timeout=60)
