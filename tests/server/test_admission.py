"""New streams are refused while chunks take too long, and taken again when they do not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.admission import (
    DEFAULT_SHARE,
    INTERVAL_S,
    Admission,
    Reading,
    StreamLimit,
    chosen_share,
)
from server.backends.earshot.earshot_runtime.counts import LIVE_STREAMS
from server.backends.earshot.earshot_runtime.limit import read_limit, write_limit
from server.errors import BadRepository
from server.launch import running
from server.repository import ONNXRUNTIME, TENSORRT, Ensemble, Repository
from tests.support.toy_streams import Stream, constant

CHUNK_S = 0.56
IDLE_S = 0.03


@dataclass
class Simulated:
    """A server of whose streams each brings a chunk per `CHUNK_S`, which wait for each other."""

    capacity: float
    reading: Reading = field(default_factory=lambda: Reading(0.0, 0.0, 0, 0, 0))

    def hold(self, live: int) -> Reading:
        """Return the sums after a further interval with `live` streams."""
        busy = min(0.99, live / self.capacity)
        chunk_s = IDLE_S / (1 - busy)
        chunks = round(max(1, live) * INTERVAL_S / CHUNK_S)
        self.reading = Reading(
            self.reading.at_s + INTERVAL_S,
            self.reading.total_s + chunks * chunk_s,
            self.reading.chunks + chunks,
            live,
            waiting=int(live * min(1.0, chunk_s / CHUNK_S)),
        )
        return self.reading


@pytest.mark.parametrize("capacity", [20, 150, 4000])
def test_streams_are_admitted_up_to_the_share_and_not_beyond(capacity: int) -> None:
    server, limit, live, most = Simulated(capacity), StreamLimit(CHUNK_S, 0.3), 0, 0
    for _ in range(100):
        allowed = limit.update(server.hold(live))
        live = max(live, allowed or 0)  # as many come as are let in, and none ends
        most = max(most, live)
    right = capacity * (1 - IDLE_S / (0.3 * CHUNK_S))
    assert 0.85 * right <= most <= 1.1 * right + 1


def test_an_idle_server_takes_what_it_carries_without_batching() -> None:
    server, limit = Simulated(150), StreamLimit(CHUNK_S, 0.3)
    assert limit.update(Reading(0.0, 0.0, 0, 0, 0)) is None
    last = [limit.update(server.hold(0)) for _ in range(10)][-1]
    assert last is not None
    assert 16 <= last <= 20  # CHUNK_S / IDLE_S is 18.7


def test_a_slow_machine_takes_streams_whatever_the_share() -> None:
    """A chunk alone takes longer than the share allows, and the half of the cores is idle."""
    server, limit, live = Simulated(150), StreamLimit(CHUNK_S, 0.5 * IDLE_S / CHUNK_S), 0
    for _ in range(100):
        live = max(live, limit.update(server.hold(live)) or 0)
    assert 0.85 * 75 <= live <= 1.1 * 75 + 1


def test_counters_that_begin_anew_are_a_model_that_was_loaded_again() -> None:
    server, limit = Simulated(150), StreamLimit(CHUNK_S, 0.3)
    for _ in range(10):
        limit.update(server.hold(20))
    again = Simulated(150, replace(server.reading, total_s=0.0, chunks=0))
    allowed = [limit.update(again.hold(20)) for _ in range(10)]
    assert allowed[0] is None
    assert all(streams is not None and streams >= 20 for streams in allowed[1:])


def test_a_first_chunk_that_is_under_way_closes_no_door() -> None:
    limit = StreamLimit(CHUNK_S, 0.3)
    waiting = [Reading(n * INTERVAL_S, 0.0, 0, live=1, waiting=1) for n in range(5)]
    assert [limit.update(now) for now in waiting] == [None, None, None, 0, 0]


@pytest.mark.parametrize(
    ("requested", "runtime", "share"),
    [
        (None, ONNXRUNTIME, DEFAULT_SHARE),
        (0.3, ONNXRUNTIME, 0.3),
        (0.0, ONNXRUNTIME, None),
        (None, TENSORRT, None),
        (0.0, TENSORRT, None),
    ],
)
def test_the_share_is_on_where_it_can_be_kept(
    requested: float | None, runtime: str, share: float | None
) -> None:
    assert chosen_share(requested, Repository(Path(), (), 0, runtime)) == share


def test_a_share_that_native_tensorrt_cannot_keep_is_refused() -> None:
    with pytest.raises(BadRepository, match="Triton's TensorRT backend: leave it out"):
        chosen_share(0.15, Repository(Path("models"), (), 0, TENSORRT))


def test_streams_that_send_nothing_leave_room_for_others() -> None:
    server, limit = Simulated(150), StreamLimit(CHUNK_S, 0.3)
    allowed = None
    for _ in range(10):
        allowed = limit.update(replace(server.hold(10), live=500))
    assert allowed is not None
    assert allowed >= 510


def test_chunks_without_an_answer_close_the_door() -> None:
    server, limit = Simulated(150), StreamLimit(CHUNK_S, 0.3)
    readings = [server.hold(20) for _ in range(10)]
    for reading in readings:
        limit.update(reading)
    last = readings[-1]
    stuck = [replace(last, at_s=last.at_s + n * INTERVAL_S, waiting=20) for n in range(1, 10)]
    assert [limit.update(now) for now in stuck][-1] == 0


def test_the_limit_follows_triton_s_metrics(tmp_path: Path) -> None:
    ensemble = Ensemble(
        "asr_streaming",
        16,
        64,
        stages={"features": 2, "encoder": 1},
        chunk_ms=560,
    )
    seen: list[int] = []
    admission = Admission("", tmp_path, 0.3, lambda _, streams: seen.append(streams))
    admission.serve([ensemble])
    assert read_limit(tmp_path, "features") is None
    for second in range(4):
        features, encoder = '{model="features",version="1"}', '{model="encoder",version="1"}'
        lines = [
            f"nv_inference_request_success{features} {100 * second}",
            f"nv_inference_request_duration_us{features} {25 * second * 1e6 * IDLE_S}",
            # On two GPUs.
            f"nv_inference_request_duration_us{encoder} {50 * second * 1e6 * IDLE_S}",
            'nv_inference_request_duration_us{gpu_uuid="GPU-1",model="encoder",version="1"} '
            f"{25 * second * 1e6 * IDLE_S}",
            'nv_inference_request_duration_us{model="asr_streaming",version="1"} 5',
            'nv_inference_pending_request_count{model="encoder",version="1"} 0',
        ]
        admission.decide("\n".join(lines), float(second))
    assert read_limit(tmp_path, "features") == -(-seen[-1] // 2)
    assert seen[-1] == 28 + 18  # half of the load, and what fits without batching
    admission.serve([])
    assert read_limit(tmp_path, "features") is None  # a model that is loaded again begins anew


def test_ensembles_that_share_a_stage_share_its_limit(tmp_path: Path) -> None:
    """A recognizer with heads is idle, while chunks of its base wait at a stage of both."""
    base = Ensemble("zeta", 16, 64, stages={"features": 1, "encoder": 1}, chunk_ms=560)
    stages = {"features": 1, "encoder": 1, "heads": 1}
    heads = Ensemble("orders", 16, 64, stages=stages, chunk_ms=560)
    admission = Admission("", tmp_path, 0.3)
    admission.serve([base, heads])
    beat = {"model": "features", "metrics": [[LIVE_STREAMS[0], {}, 100]]}
    (tmp_path / "features.json").write_text(json.dumps(beat))
    for second in range(4):
        labels = '{model="features",version="1"}'
        lines = [
            f"nv_inference_request_success{labels} {100 * second}",
            f"nv_inference_request_duration_us{labels} {100 * second * 1e6 * IDLE_S}",
            'nv_inference_pending_request_count{model="encoder",version="1"} 3',
        ]
        admission.decide("\n".join(lines), float(second))
    limit = read_limit(tmp_path, "features")
    assert limit is not None
    assert limit > 100


@pytest.mark.triton
def test_a_stage_refuses_new_streams_at_its_limit(toy_repository: Path) -> None:
    with (
        running(toy_repository) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        stream = Stream(client)
        stream.send(constant(1.0)).result(timeout=60)
        write_limit(triton.heartbeats, "summer", 1)
        with pytest.raises(InferenceServerException, match="this server is saturated") as refusal:
            Stream(client).send(constant(1.0)).result(timeout=60)
        assert "UNAVAILABLE" in str(refusal.value.status())
        assert stream.send(constant(1.0)).result(timeout=60)["SUM"] == 16.0
        write_limit(triton.heartbeats, "summer", 2)
        Stream(client).send(constant(1.0), end=True).result(timeout=60)
        stream.finish()
