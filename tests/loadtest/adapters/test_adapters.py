"""Live streams with adapters, beside streams without, on a real server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import earshot
import numpy as np
import pytest

from loadtest.adapters.document import AdaptersResult, Level
from loadtest.adapters.measure import NoAdapters, Plan, compared, measure
from loadtest.compare.saturate import saturate
from loadtest.options import LoadOptions
from loadtest.result.document import Latency
from loadtest.service.server import ServerProcess
from tests.support import fake_recognizer
from tests.support.fake_triton import fake_triton
from tests.support.project import ADAPTED_CHUNK_MS, PROJECT, Exported

LEVEL = Level(
    adapters=0,
    streams=8,
    stream_s=100.0,
    cpu_ms_per_stream_s={"triton": 1.0, "encoder": 4.0},
    total_cpu_ms_per_stream_s=5.0,
    streams_per_core_ratio=0.0,
    chunk_latency=Latency(10.0, 20.0, 30.0, 40.0, 100),
    failures=0,
)


def test_levels_are_compared_with_those_without_adapters() -> None:
    dear = replace(LEVEL, adapters=10, total_cpu_ms_per_stream_s=8.0)
    last = replace(LEVEL, total_cpu_ms_per_stream_s=7.0)
    ratios = [level.streams_per_core_ratio for level in compared([LEVEL, dear, last])]
    assert ratios == [1.2, 0.75, 0.857]


def test_the_cpu_time_of_an_adapter_is_not_that_of_its_base() -> None:
    parameters = fake_recognizer.PARAMETERS | {"contract_version": "2", "adapter": "clinic"}
    with fake_triton(None, models={"clinic_asr_streaming": parameters}) as fake:
        server = ServerProcess(0, fake.url, "")
        speech = np.zeros(16000, np.float32)
        with pytest.raises(earshot.UnsupportedServer, match="'clinic' is an adapter and shares"):
            asyncio.run(saturate(server, speech, 1, 1.0, "clinic"))


def options(repository: Path) -> LoadOptions:
    return LoadOptions(repository=repository, speech=PROJECT / "recordings" / "jfk")


@pytest.mark.slow
@pytest.mark.triton
def test_a_measurement(exported: Exported, tmp_path: Path) -> None:
    plan = Plan(streams=2, counts=(1, 2), hold_s=2.0, retired=1)
    result = measure(options(exported(ADAPTED_CHUNK_MS)), plan, lambda line: None)
    result.write(tmp_path / "adapters.json")
    assert AdaptersResult.from_json(tmp_path / "adapters.json") == result
    assert [level.adapters for level in result.levels] == [0, 1, 2, 0]
    assert all(level.stream_s > 2 and not level.failures for level in result.levels)
    assert (result.loaded.adapters, result.retired.adapters, result.live_failures) == (2, 1, 0)


@pytest.mark.slow
@pytest.mark.triton
def test_a_recognizer_without_adapters(exported: Exported) -> None:
    plan = Plan(streams=1, counts=(1,), hold_s=1.0, retired=1)
    with pytest.raises(NoAdapters, match="without"):
        measure(options(exported(80)), plan, lambda line: None)
