"""A trace runs from the client's stream to the stages of the server that answered it."""

from __future__ import annotations

from collections import Counter

import earshot
import numpy as np
import pytest

from server.launch import running
from server.tracing import Tracing
from tests.support.project import Exported
from tests.support.traces import collector, recorded

# Slow, and not in CI: Triton sometimes loses all spans of one of the three requests.
pytestmark = [pytest.mark.triton, pytest.mark.slow]

CHUNK_MS = 320
STAGES = {"feature_extractor", "encoder", "decoder"}


def test_a_sampled_stream_is_traced_through_every_stage(exported: Exported) -> None:
    request = ("InferRequest", "asr_streaming")
    expected = [request[:1], request]
    expected += [(*request, stage) for stage in STAGES]
    expected += [(*request, stage, "compute") for stage in STAGES]
    options = earshot.StreamOptions(tag="call-17", trace_every=3)
    speech = np.random.default_rng(0).uniform(-0.1, 0.1, 2 * 16000).astype(np.float32)
    with (
        collector() as received,
        running(exported(CHUNK_MS), tracing=Tracing(received.url, every=0)) as triton,
        earshot.connect(triton.grpc_url) as client,
    ):
        with (
            recorded() as recording,
            client.stream(sample_rate_hz=16000, options=options) as stream,
        ):
            results = [*stream.send(speech), *stream.end()]
        with client.stream(sample_rate_hz=16000) as stream:
            stream.send(speech)
        received.wait_for(3 * len(expected))
    [span] = recording.spans
    assert span.context is not None
    assert {each.trace_id for each in received.spans} == {f"{span.context.trace_id:032x}"}
    paths = Counter(
        tuple(received.path(each, f"{span.context.span_id:016x}")) for each in received.spans
    )
    assert len(results) == 7
    assert paths == dict.fromkeys(expected, 3)  # the chunks 0, 3 and 6
    encoder = next(each for each in received.spans if each.name == "encoder")
    assert encoder.attributes["triton.request_id"] == "call-17"
    assert encoder.events == ("REQUEST_START", "QUEUE_START", "REQUEST_END")
    assert encoder.resource["service.name"] == "earshot"
