"""The page of metrics: Triton's, those of the stages, and those of the launcher."""

from __future__ import annotations

import json
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from server import __version__
from server.access import OPEN
from server.backends.earshot.earshot_runtime.heartbeat import INTERVAL_S
from server.canary import Canary
from server.heartbeats import Work, read_heartbeats
from server.launch import Triton, running
from server.local_client import open_client
from server.metrics_page import StageCollector
from server.sent_canaries import SentCanaries
from tests.support.launcher import wait_for
from tests.support.project import PROJECT
from tests.support.toy_repository import MAX_STREAMS
from tests.support.toy_streams import Stream, constant


@pytest.mark.triton
def test_the_page_tells_what_happens(toy_repository: Path) -> None:
    with running(toy_repository) as triton, InferenceServerClient(triton.grpc_url) as client:
        streams = [Stream(client) for _ in range(MAX_STREAMS)]
        for answer in [stream.send(constant(1.0)) for stream in streams]:
            answer.result(timeout=60)
        with pytest.raises(InferenceServerException, match="all are taken"):
            Stream(client).send(constant(1.0)).result(timeout=60)
        assert not list(_canary(triton, client).failures(triton.ensembles))  # in no caller's slot
        with pytest.raises(InferenceServerException, match="NaN"):
            streams[0].send(constant(float("nan"))).result(timeout=60)
        streams[1].finish()
        _wait_for_heartbeats(triton)
        assert _read(triton, "earshot_refused_chunks_total") == 1
        assert _read(triton, "earshot_slots") == MAX_STREAMS
        assert _read(triton, "earshot_started_streams_total") == MAX_STREAMS
        assert _read(triton, "earshot_refused_streams_total", reason="full") == 1
        assert _read(triton, "earshot_batch_seconds_bucket", le="+Inf") == _read(
            triton, "earshot_batch_seconds_count"
        )
        assert _read(triton, "earshot_batch_seconds_sum") > 0
        assert _read(triton, "earshot_stage_up") == 1
        assert _read(triton, "nv_inference_count_total") >= MAX_STREAMS
        assert _read(triton, "earshot_canary_seconds_count", "toy_streaming") == 1
        assert _read(triton, "earshot_canary_requests_total", "toy_streaming") == 1
        assert _read(triton, "earshot_build_info", "", version=__version__) == 1
        assert _read(triton, "earshot_model_info", "toy_streaming") == 1
        assert _read(triton, "earshot_draining", "") == 0
        with pytest.raises(urllib.error.HTTPError, match="expected /metrics"):
            urllib.request.urlopen(triton.metrics_url + "/other", timeout=60)


@pytest.mark.triton
def test_instances_that_have_worked_need_no_canary_of_their_own(toy_repository: Path) -> None:
    config = toy_repository / "summer" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    with running(toy_repository) as triton, open_client(triton.grpc_url, OPEN) as client:
        canary, sent = _canary(triton, client), []
        for _ in range(3):
            assert not list(canary.failures(triton.ensembles))
            _wait_for_heartbeats(triton)  # that say so
            sent.append(_read(triton, "earshot_canary_requests_total", "toy_streaming"))
        assert _read(triton, "earshot_started_streams_total") == 0
        assert sent == [2, 3, 5]  # all; one, for both have worked; all, for one has not


def _wait_for_heartbeats(triton: Triton) -> None:
    """Wait until all stages have counted what they have done so far."""
    after_s = time.monotonic() + INTERVAL_S
    wait_for(lambda: all(beat["beat_s"] > after_s for beat in read_heartbeats(triton.heartbeats)))


def _canary(triton: Triton, client: InferenceServerClient) -> Canary:
    return Canary(
        client,
        triton.canary_secret,
        SentCanaries(triton.heartbeats),
        10.0,
        triton.metrics.observe_canary,
        Work(triton.heartbeats),
    )


def _read(triton: Triton, name: str, model: str = "summer", **labels: str) -> float:
    """Return the sum over what has these labels."""
    with urllib.request.urlopen(triton.metrics_url, timeout=60) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    wanted = labels | ({"model": model} if model else {})
    values = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and wanted.items() <= sample.labels.items()
    ]
    assert values, f"no {name} with {wanted}"
    return sum(values)


def test_the_version_is_that_of_the_client() -> None:
    project = tomllib.loads((PROJECT / "client" / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__


def test_a_process_that_stands_still_is_down(tmp_path: Path) -> None:
    now_s = time.monotonic()
    for instance, beat_s in (("a_0", now_s), ("b_0", now_s - 60)):
        facts = {
            "model": instance[0],
            "instance": instance,
            "pid": 1,
            "beat_s": beat_s,
            "busy_since_s": None,
            "patience_s": 5.0,
            "metrics": [],
        }
        (tmp_path / f"{instance}.json").write_text(json.dumps(facts))
    up = next(iter(StageCollector(tmp_path).collect()))
    assert {sample.labels["instance"]: sample.value for sample in up.samples} == {
        "a_0": 1,
        "b_0": 0,
    }
