"""Sample results for tests; latencies rise steeply where the server runs out of cores."""

from __future__ import annotations

from dataclasses import replace

from loadtest.overload.document import SCHEMA as OVERLOAD_SCHEMA
from loadtest.overload.document import OverloadResult
from loadtest.result.baseline import (
    ALL_SETS,
    RecognizerComparison,
    RecognizerFigures,
    SpeechSet,
)
from loadtest.result.document import (
    SCHEMA,
    CapacityResult,
    Conditions,
    Latency,
    Level,
    Rule,
    StageUse,
    Timeline,
)

STAGES = ("feature_extractor", "encoder", "decoder")
CONDITIONS = Conditions(
    checkpoint="demo",
    runtime="onnxruntime",
    precision="fp32",
    chunk_ms=560,
    parameters=10_447_296,
    cpu_model="AMD EPYC",
    cpu_cores=2,
    gpu_model=None,
    gpu_count=0,
    server_location="same machine",
    generator_processes=1,
    versions={"triton": "2.51.0", "onnxruntime": "1.31.1", "python": "3.11.7", "locust": "2.47.0"},
    speech="recordings (10 files, 46 s)",
    command="python -m loadtest capacity --repository model_repository",
    started_at="2026-11-22T13:00:00Z",
)


def latency(p50_ms: float, p99_ms: float) -> Latency:
    return Latency(p50_ms, 0.8 * p99_ms, p99_ms, 1.3 * p99_ms, 10_000)


def level(streams: int, p99_ms: float, hold_s: float = 10.0) -> Level:
    """Return a level that passes if its p99 is below 560 ms."""
    seconds = range(int(hold_s))
    waves = [1 + 0.15 * ((second * 7919) % 13 - 6) / 6 for second in seconds]
    passes = p99_ms < 560
    return Level(
        streams=streams,
        hold_s=hold_s,
        final=False,
        passes=passes,
        valid=True,
        reasons=[] if passes else [f"p99 chunk latency {p99_ms:.0f} ms, allowed 560 ms"],
        chunk_latency=latency(p99_ms / 3, p99_ms),
        final_latency=latency(p99_ms / 3, 1.1 * p99_ms),
        lateness=latency(0.4, 4.1),
        late_share=0.0004,
        keep_up_share_min=1.0,
        failures={},
        transcripts_compared=streams,
        transcripts_different=0,
        wer=0.83,
        timeline=Timeline(
            second_s=[float(second) for second in seconds],
            streams=[streams for _ in seconds],
            p50_ms=[p99_ms / 3 * wave for wave in waves],
            p95_ms=[p99_ms * 0.75 * wave for wave in waves],
            p99_ms=[p99_ms * 0.95 * wave for wave in waves],
            lateness_p99_ms=[4 * wave for wave in waves],
        ),
        stages=[
            StageUse(name, streams / 12 + index, 4.0 + index, 2.0 + 9 * (index == 1), 9_000, 0.4)
            for index, name in enumerate(STAGES)
        ],
        server_cpu_cores=min(1.9, streams / 115),
        generator_cpu_cores=0.1 + streams / 900,
        gpu_utilization=None,
        gpu_memory_bytes=None,
    )


def capacity_result() -> CapacityResult:
    """Return the result of a search on two cores that found 208 streams."""
    held = [(16, 34), (32, 48), (64, 82), (128, 154), (256, 2310), (192, 301), (224, 894)]
    levels = [level(streams, p99_ms) for streams, p99_ms in held]
    levels += [replace(level(208, 473, hold_s=60), final=True)]
    return CapacityResult(
        schema=SCHEMA,
        kind="capacity",
        verdict="pass",
        streams=208,
        streams_per_gpu=None,
        streams_per_core=104.0,
        limit="p99 chunk latency 894 ms, allowed 560 ms, at 224 streams",
        rule=Rule(560.0, 60.0, 0.99, 10.0, 0.01),
        levels=levels,
        conditions=CONDITIONS,
    )


def gpu_result() -> CapacityResult:
    """Return the result of one GPU that sustains 900 streams."""
    conditions = replace(CONDITIONS, gpu_model="NVIDIA H100", gpu_count=1, runtime="tensorrt")
    held = [(450, 90), (900, 300), (1000, 700)]
    levels = [
        replace(level(streams, p99_ms), gpu_utilization=streams / 1100, gpu_memory_bytes=9 * 2**30)
        for streams, p99_ms in held
    ]
    levels[1] = replace(levels[1], final=True, hold_s=60.0)
    return replace(
        capacity_result(),
        streams=900,
        streams_per_gpu=900.0,
        streams_per_core=None,
        levels=levels,
        conditions=conditions,
    )


def overload_result() -> OverloadResult:
    """Return an overload in which the server of `capacity_result` admitted 118.6 streams."""
    return OverloadResult(
        schema=OVERLOAD_SCHEMA,
        kind="overload",
        passes=True,
        reasons=[],
        chunk_share=0.15,
        users=400,
        arrival_s=20.0,
        hold_s=60.0,
        live_mean=118.6,
        chunk_latency=latency(120, 490),
        refusal_latency=latency(14, 72),
        p99_ms=560.0,
        refusal_p99_ms=100.0,
        failures={},
        transcripts_compared=480,
        transcripts_different=0,
        seconds=[],
        conditions=CONDITIONS,
    )


def invalid_result() -> CapacityResult:
    """Return a result whose load generator was the limit."""
    reason = "the load generator was the limit: 4.2% of its sends were late, allowed 1%"
    late = replace(level(128, 320), valid=False, late_share=0.042, reasons=[reason])
    return replace(
        capacity_result(),
        verdict="invalid",
        streams=0,
        streams_per_core=None,
        limit=f"{reason}, at 128 streams",
        levels=[level(16, 34), level(64, 80), late],
    )


def comparison() -> RecognizerComparison:
    sets = [SpeechSet("librispeech_test_other", 50, 350.0, 900), SpeechSet("jfk", 1, 11.0, 22)]
    ours = {"librispeech_test_other": 0.84, "jfk": 0.82, ALL_SETS: 0.839}
    theirs = {"librispeech_test_other": 0.59, "jfk": 0.23, ALL_SETS: 0.581}
    return RecognizerComparison(
        sets,
        [
            RecognizerFigures(
                "Earshot: demo, 560 ms chunks", ours, 130.7, "CPU time of the server"
            ),
            RecognizerFigures("PocketSphinx 5.1.1, en-us", theirs, 1.8, "CPU time of one thread"),
        ],
    )
