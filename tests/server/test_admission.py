"""New streams are refused while chunks take too long, and taken again when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.admission import Admission
from server.backends.earshot.earshot_runtime.heartbeat import saturated_flag
from server.launch import running
from server.repository import Ensemble
from tests.support.toy_streams import Stream, constant

ENSEMBLE = Ensemble("asr_streaming", 16, 64, 1, "feature_extractor", chunk_ms=560)


class Chunks:
    """Adds up what Triton's metrics say about chunks."""

    def __init__(self, folder: Path) -> None:
        self.flag = saturated_flag(folder, "feature_extractor")
        self._admission = Admission("", [ENSEMBLE], folder, chunk_share=0.5)
        self._total_us = self._count = 0

    def refused_after(self, mean_ms: int, answered: int = 10, waiting: int = 0) -> bool:
        """Tell whether new streams are refused after an interval with such chunks."""
        self._total_us += mean_ms * 1000 * answered
        self._count += answered
        labels = '{model="asr_streaming",version="1"}'
        lines = [
            f"nv_inference_request_summary_us_count{labels} {self._count}",
            f"nv_inference_request_summary_us_sum{labels} {self._total_us}",
            'nv_inference_request_summary_us_sum{model="encoder",version="1"} 5',
            f'nv_inference_pending_request_count{{model="encoder",version="1"}} {waiting}',
        ]
        self._admission.decide("\n".join(lines))
        return self.flag.exists()


def test_the_mean_time_of_the_last_chunks_decides(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path)
    assert [chunks.refused_after(mean_ms) for mean_ms in (100, 270, 290)] == [False, False, True]


def test_streams_are_taken_again_after_some_calm(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path)
    means_ms = [290, 190, 190, 190, 200, *[190] * 6]
    assert [chunks.refused_after(mean_ms) for mean_ms in means_ms] == [True] * 10 + [False]


def test_chunks_without_an_answer_are_not_calm(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path)
    assert chunks.refused_after(290)
    assert all(chunks.refused_after(0, answered=0, waiting=3) for _ in range(20))
    assert [chunks.refused_after(0, answered=0) for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.triton
def test_a_saturated_server_refuses_new_streams_at_once(toy_repository: Path) -> None:
    with (
        running(toy_repository) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        stream = Stream(client)
        stream.send(constant(1.0)).result(timeout=10)
        flag = saturated_flag(triton.heartbeats, "summer")
        flag.touch()
        with pytest.raises(InferenceServerException, match="this server is saturated") as refusal:
            Stream(client).send(constant(1.0)).result(timeout=10)
        assert "UNAVAILABLE" in str(refusal.value.status())
        assert stream.send(constant(1.0)).result(timeout=10)["SUM"] == 16.0
        flag.unlink()
        Stream(client).send(constant(1.0), end=True).result(timeout=10)
        stream.finish()
