"""A trace runs from the client's stream to the stages of the server that answered it."""

from __future__ import annotations

from collections import Counter

import earshot
import numpy as np
import numpy.typing as npt
import pytest
from opentelemetry.trace import SpanContext

from server.launch import running
from server.tracing import Tracing
from tests.support.fake_recognizer import PATIENT
from tests.support.project import Exported
from tests.support.traces import ATTEMPTS, collector, recorded

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("servers_end")]

CHUNK_MS = 320
STAGES = {"feature_extractor", "encoder", "decoder"}


def test_a_sampled_stream_is_traced_through_every_stage(exported: Exported) -> None:
    request = ("InferRequest", "asr_streaming")
    expected = [request[:1], request]
    expected += [(*request, stage) for stage in STAGES]
    expected += [(*request, stage, "compute") for stage in STAGES]
    speech = np.random.default_rng(0).uniform(-0.1, 0.1, 2 * 16000).astype(np.float32)
    parents: list[SpanContext] = []
    with (
        collector() as received,
        running(exported(CHUNK_MS), tracing=Tracing(received.url, every=0)) as triton,
        earshot.connect(triton.grpc_url, timeouts=PATIENT) as client,
    ):
        with client.stream(sample_rate_hz=16000) as stream:
            stream.send(speech)
        for _ in range(ATTEMPTS):
            parents.append(traced_stream(client, speech))
            if received.has(hexadecimal(parents[-1].trace_id, 32), 3 * len(expected)):
                break
    trace_ids = [hexadecimal(parent.trace_id, 32) for parent in parents]
    assert {each.trace_id for each in received.spans} <= {*trace_ids}
    spans = [each for each in received.spans if each.trace_id == trace_ids[-1]]
    root = hexadecimal(parents[-1].span_id, 16)
    paths = Counter(tuple(received.path(each, root)) for each in spans)
    assert paths == dict.fromkeys(expected, 3)  # the chunks 0, 3 and 6
    encoder = next(each for each in spans if each.name == "encoder")
    assert encoder.attributes["triton.request_id"] == "call-17"
    assert encoder.events == ("REQUEST_START", "QUEUE_START", "REQUEST_END")
    assert encoder.resource["service.name"] == "earshot"


def hexadecimal(number: int, digits: int) -> str:
    return f"{number:0{digits}x}"


def traced_stream(client: earshot.Client, speech: npt.NDArray[np.float32]) -> SpanContext:
    """Stream seven chunks, of which every third is traced; return the context of its span."""
    options = earshot.StreamOptions(tag="call-17", trace_every=3)
    with recorded() as recording, client.stream(sample_rate_hz=16000, options=options) as stream:
        results = [*stream.send(speech), *stream.end()]
    assert len(results) == 7
    [span] = recording.spans
    assert span.context is not None
    return span.context
