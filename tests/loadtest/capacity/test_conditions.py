"""The conditions list the GPUs of a server that runs on them, and of no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from earshot import ServerInfo

from loadtest.capacity import conditions as module
from loadtest.capacity.conditions import conditions
from loadtest.options import LoadOptions

INFO = ServerInfo(
    url="127.0.0.1:8001",
    server="triton 2.51.0",
    model="demo",
    precision="fp16",
    runtime="torch",
    sample_rate_hz=16_000,
    chunk_ms=560,
    chunk_samples=8960,
    lead_samples=0,
    frame_ms=80,
    max_streams=4500,
    sequence_idle_ms=30_000,
)


@pytest.mark.parametrize(
    ("runtime", "url", "reported", "count", "model"),
    [
        ("torch", "127.0.0.1:8001", 1, 1, "H200"),
        ("torch", "127.0.0.1:8001", 0, 1, "H200"),  # no DCGM
        ("torch", "192.0.2.1:8001", 2, 2, None),
        ("onnxruntime", "127.0.0.1:8001", 1, 0, None),
    ],
)
def test_gpus_count_if_the_server_runs_on_them(
    runtime: str,
    url: str,
    reported: int,
    count: int,
    model: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_gpu_names", lambda: ["H200"])
    info = replace(INFO, runtime=runtime, url=url)
    found = conditions(info, LoadOptions(), [], reported)
    assert (found.gpu_count, found.gpu_model) == (count, model)
