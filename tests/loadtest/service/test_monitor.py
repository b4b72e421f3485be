"""Use of the stages, from two readings of a server's metrics."""

from __future__ import annotations

import pytest

from loadtest.service.metrics import Metrics
from loadtest.service.monitor import stages_between


def reading(chunks: float, runs: float, engine_s: float, engine_batches: float) -> Metrics:
    stage, engine = {"model": "recognizer"}, {"model": "recognizer_engine"}
    return Metrics(
        [
            ("nv_inference_count", stage, chunks),
            ("nv_inference_exec_count", stage, runs),
            ("nv_inference_queue_duration_us", stage, 0.0),
            ("nv_inference_compute_input_duration_us", stage, 0.0),
            ("nv_inference_compute_infer_duration_us", stage, 40_000 * chunks),
            ("nv_inference_compute_output_duration_us", stage, 0.0),
            ("earshot_batch_seconds_sum", engine, engine_s),
            ("earshot_batch_seconds_count", engine, engine_batches),
        ]
    )


def test_the_engine_that_processes_share_is_seen_beside_them() -> None:
    before, after = reading(1000, 100, 10.0, 50), reading(4000, 150, 16.0, 60)
    stage, engine = stages_between(before, after, {"recognizer": 5.0}, 10.0, "asr_streaming")
    assert (stage.mean_batch, stage.compute_ms, stage.cpu_cores) == (60, 40, 0.5)
    assert engine.model == "recognizer_engine"
    assert (engine.mean_batch, engine.requests) == (300, 3000)
    assert engine.compute_ms == pytest.approx(600)
