"""TensorRT repositories: the memory budget, and what is refused before or just after the start.

A script called nvidia-smi takes the place of the GPU, and lines of a log that of Triton: the
machines that run these tests have neither. The warm-up runs against a real Triton.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server import gpu, repository, tensorrt
from server.backend_directory import make_backend_directory
from server.command import triton_command
from server.errors import BadGpu, BadRepository, TritonDied, TritonNotFound
from server.launch import Triton, running
from server.locate import find_triton
from server.ports import choose_endpoints
from server.repository import read_repository
from server.warm_up import warm_up, warm_up_files
from tests.support.project import PROJECT, Exported, ExportedOffline, OfflineCheckpoint

CHUNK_MS, STREAMS, MIB = 320, 100, 2**20
ENGINE = {"plan_bytes": 30 * MIB, "device_memory_bytes": 20 * MIB}
FACTS = {
    "version": "11.4.0.106",
    "gpu": {"name": "NVIDIA L4"},
    "engines": {"feature_extractor": ENGINE, "encoder": ENGINE, "decoder": ENGINE},
}


@pytest.fixture
def engines(random_checkpoint: Path, tmp_path: Path) -> Path:
    """Write a repository as `python -m export --runtime tensorrt` does, with empty plans."""
    folder = tmp_path / "engines"
    write_engines(random_checkpoint, folder)
    return folder


def write_engines(random_checkpoint: Path, folder: Path, name: str = "") -> None:
    from export.checkpoint import load_checkpoint
    from export.install import write_configs, write_tokenizer
    from export.options import ExportOptions, Serving
    from export.streaming.config import config_files
    from export.streaming.export import spec_of
    from export.tensorrt.stages import tensorrt_stages

    checkpoint = load_checkpoint(str(random_checkpoint))
    stages = tensorrt_stages(checkpoint, 4, "fp16")
    options = ExportOptions(
        str(random_checkpoint),
        chunk_ms=CHUNK_MS,
        runtime="tensorrt",
        precision="fp16",
        name=name,
        serving=Serving(max_streams=STREAMS),
    )
    spec = spec_of(checkpoint, stages, options)
    write_configs(folder, config_files(spec))
    write_tokenizer(folder / spec.text_model.name, checkpoint)
    for stage in spec.stages:
        (folder / stage.name / "1").mkdir()
        (folder / stage.name / "1" / "model.plan").touch()
    write_facts(folder, FACTS, spec.ensemble.name)


def write_facts(folder: Path, facts: dict[str, object], ensemble: str = "asr_streaming") -> None:
    manifest = folder / ensemble / "1" / "manifest.json"
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text(json.dumps({"runtime": "tensorrt", "tensorrt": facts}))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An L4 with TensorRT 11.4.0."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
    monkeypatch.setattr(tensorrt, "tensorrt_version", lambda major: (11, 4, 0))
    return smi


def test_the_budget_adds_up(engines: Path, machine: Path) -> None:
    served = read_repository(engines)
    budget = served.budget
    assert served.runtime == "tensorrt"
    assert served.max_streams == STREAMS
    assert budget is not None
    assert budget.weights == 150 * MIB
    encoder = 2 * _state_size(engines, "encoder")
    others = 4 * sum(_state_size(engines, name) for name in ("feature_extractor", "decoder"))
    assert encoder + others <= budget.state_per_stream < encoder + others + 3 * 512
    assert budget.pool >= STREAMS * (budget.state_per_stream + budget.in_flight_per_stream)
    assert budget.total < budget.gpu.memory_bytes
    assert budget.streams_that_fit > STREAMS
    text = "\n".join(budget.lines())
    assert "NVIDIA L4 (22.5 GiB)" in text
    assert f"{budget.streams_that_fit} streams would fit" in text
    assert replace(budget, streams=budget.streams_that_fit).total <= budget.gpu.memory_bytes + MIB


def test_every_recognizer_is_counted_and_checked(
    random_checkpoint: Path, engines: Path, machine: Path
) -> None:
    one = read_repository(engines).budget
    write_engines(random_checkpoint, engines, "clinic_v2")
    served = read_repository(engines)
    assert one is not None
    assert served.budget is not None
    assert [x.name for x in served.ensembles] == ["asr_streaming", "clinic_v2_asr_streaming"]
    assert [x.max_streams for x in served.ensembles] == [STREAMS, STREAMS]
    assert served.budget.streams == 2 * STREAMS
    assert served.budget.weights == 2 * one.weights
    assert served.budget.batch_buffers == 2 * one.batch_buffers
    # A stream runs through one of them.
    assert served.budget.state_per_stream == one.state_per_stream
    assert served.budget.in_flight_per_stream == one.in_flight_per_stream
    other = {**FACTS, "gpu": {"name": "NVIDIA H200"}}
    write_facts(engines, other, "clinic_v2_asr_streaming")
    with pytest.raises(BadGpu, match="built on NVIDIA H200"):
        read_repository(engines)


def test_engines_for_whole_utterances_are_counted(
    offline_checkpoint: OfflineCheckpoint, engines: Path, machine: Path, tmp_path: Path
) -> None:
    """In a repository without streaming models, and in one with them."""
    files = write_offline_engines(offline_checkpoint("ctc"), tmp_path / "files")
    alone = read_repository(tmp_path / "files").budget
    assert alone is not None
    assert (alone.streams, alone.streams_that_fit) == (0, 0)
    assert alone.batch_buffers == files
    assert 2 * files <= alone.pool < 2.3 * files
    streams = read_repository(engines).budget
    write_offline_engines(offline_checkpoint("ctc"), engines)
    both = read_repository(engines).budget
    assert streams is not None
    assert both is not None
    assert both.streams == STREAMS
    assert both.batch_buffers == streams.batch_buffers + files
    assert abs(both.pool - streams.pool - alone.pool) <= MIB
    assert both.streams_that_fit < streams.streams_that_fit
    machine.write_text(f"#!/bin/sh\necho 'NVIDIA L4, {alone.total // MIB - 1}'\n")
    with pytest.raises(BadGpu, match=r"0 streams need .* a larger GPU is needed"):
        read_repository(tmp_path / "files")


def write_offline_engines(checkpoint_folder: Path, folder: Path) -> int:
    """Write what an offline export leaves, with empty plans; return the bytes of all buffers."""
    from export.checkpoint import load_checkpoint
    from export.install import write_configs, write_tokenizer
    from export.offline.config import config_files
    from export.offline.export import spec_of
    from export.options import ExportOptions

    checkpoint = load_checkpoint(str(checkpoint_folder))
    spec = spec_of(checkpoint, ExportOptions(str(checkpoint_folder), runtime="tensorrt"))
    write_configs(folder, config_files(spec))
    write_tokenizer(folder / spec.text_model.name, checkpoint)
    for stage in spec.stages:
        (folder / stage.name / "1").mkdir(exist_ok=True)
        (folder / stage.name / "1" / "model.plan").touch()
    engine = {**ENGINE, "buffer_bytes": 50 * MIB}
    facts = {**FACTS, "engines": {stage.name: engine for stage in spec.stages}}
    write_facts(folder, facts, spec.ensemble.name)
    return 50 * MIB * len(spec.stages)


def test_engines_do_not_come_and_go(engines: Path, machine: Path) -> None:
    refused = pytest.raises(BadRepository, match="without --model-control")
    with refused, running(engines, model_control=True):
        pass


def test_a_limit_that_engines_do_not_keep_is_refused(engines: Path, machine: Path) -> None:
    refused = pytest.raises(BadRepository, match="Triton's TensorRT backend: leave it out")
    with refused, running(engines, chunk_share=0.15):
        pass


def _state_size(folder: Path, name: str) -> int:
    config = repository._read_config(folder / name)
    return config.sequence_batching.state[0].dims[0]


def test_the_pool_is_asked_for(engines: Path, machine: Path) -> None:
    served = read_repository(engines)
    endpoints = choose_endpoints("127.0.0.1", grpc_port=None, metrics_port=None, http_port=None)
    command = triton_command(
        find_triton(), served, engines, endpoints, "x", model_control=False, drain_s=60
    )
    assert served.budget is not None
    assert f"--cuda-memory-pool-byte-size=0:{served.budget.pool}" in command
    assert "--backend-config=tensorrt,execution-policy=BLOCKING" in command
    assert "--allow-http=false" in command


def test_engines_of_another_gpu_are_refused(engines: Path, machine: Path) -> None:
    write_facts(engines, {**FACTS, "gpu": {"name": "NVIDIA H200"}})
    with pytest.raises(BadGpu, match=r"built on NVIDIA H200, this is NVIDIA L4; .make gpu-up. "):
        read_repository(engines)


def test_engines_of_another_tensorrt_are_refused(engines: Path, machine: Path) -> None:
    write_facts(engines, {**FACTS, "version": "11.3.0.99"})
    with pytest.raises(BadGpu, match=r"TensorRT 11\.3\.0, this container has 11\.4\.0.*gpu-up"):
        read_repository(engines)


def test_a_container_without_that_tensorrt_is_refused(
    engines: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "tensorrt_version", gpu.tensorrt_version)
    with pytest.raises(BadGpu, match=r"need TensorRT 11, which is not here .*make gpu-up"):
        read_repository(engines)


def test_more_streams_than_the_gpu_holds_are_refused(engines: Path, machine: Path) -> None:
    budget = read_repository(engines).budget
    assert budget is not None
    for memory_mib, message in {
        (budget.total - budget.pool // 2) // MIB: r"holds [1-9]\d: .*--max-streams [1-9]\d`",
        1000: "holds 0: a larger GPU is needed",
    }.items():
        machine.write_text(f"#!/bin/sh\necho 'NVIDIA L4, {memory_mib}'\n")
        with pytest.raises(BadGpu, match=f"100 streams need .* {message}"):
            read_repository(engines)


def test_a_manifest_is_needed(engines: Path, machine: Path) -> None:
    (engines / "asr_streaming" / "1" / "manifest.json").unlink()
    with pytest.raises(BadRepository, match=r"no manifest of TensorRT engines.*make gpu-up"):
        read_repository(engines)


def test_a_missing_plan_is_named(engines: Path, machine: Path) -> None:
    (engines / "encoder" / "1" / "model.plan").unlink()
    with pytest.raises(BadRepository, match=r"encoder has no model\.plan"):
        read_repository(engines)


def test_a_machine_without_a_gpu_exits_with_2(engines: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "server", "--repository", str(engines)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    assert "nvidia-smi finds none here" in result.stderr
    assert "make gpu-up" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_triton_without_the_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TritonNotFound, match=r"no TensorRT backend .*make gpu-up"):
        make_backend_directory(tmp_path / "backends", find_triton(), "tensorrt")


POOL_LINE = 'I1122 1 cuda_memory_manager.cc:107] "CUDA memory pool is created on device 0 with size'
OVERFLOW_LINE = (
    "W1122 1 memory.cc:212] Failed to allocate CUDA memory with byte size 600 on GPU 0: "
    "CNMEM_STATUS_OUT_OF_MEMORY, falling back to pinned system memory"
)


def test_a_missing_state_pool_is_refused(engines: Path, machine: Path, tmp_path: Path) -> None:
    budget = read_repository(engines).budget
    assert budget is not None
    log = tmp_path / "triton.log"
    log.write_text("nothing of a pool\n")
    with pytest.raises(TritonDied, match="pool of 0 bytes, and the states of 100 streams need"):
        tensorrt.require_state_pool(log, budget)
    log.write_text(f'{POOL_LINE} 67108864"\n')
    if budget.pool > 67108864:
        with pytest.raises(TritonDied, match="pool of 67108864 bytes"):
            tensorrt.require_state_pool(log, budget)
    log.write_text(f'{POOL_LINE} {budget.pool}"\n')
    tensorrt.require_state_pool(log, budget)


def test_states_in_host_memory_are_fatal(engines: Path, machine: Path, tmp_path: Path) -> None:
    class Process:
        log_path = tmp_path / "triton.log"

    served = read_repository(engines)
    triton = Triton(None, Process(), served.ensembles, tmp_path, None, served.budget)  # type: ignore[arg-type]
    Process.log_path.write_text(f'{POOL_LINE} 1"\n')
    triton.check_state_pool()
    Process.log_path.write_text(f"{OVERFLOW_LINE}\n")
    with pytest.raises(TritonDied, match=r"overflow the CUDA memory pool .*--max-streams.*CNMEM"):
        triton.check_state_pool()


@pytest.mark.triton
def test_warm_up_sends_files_of_every_length(exported_offline: ExportedOffline) -> None:
    with running(exported_offline("ctc")) as triton:
        warm_up_files(triton.grpc_url, "asr_offline", max_batch_size=4)
        with grpcclient.InferenceServerClient(triton.grpc_url) as client:
            statistics = client.get_inference_statistics("feature_extractor_offline", as_json=True)
        assert statistics is not None
        [model] = statistics["model_stats"]
        assert int(model["inference_count"]) == 5 * (1 + 4)
        with pytest.raises((TritonDied, InferenceServerException), match="nowhere"):
            warm_up_files(triton.grpc_url, "nowhere", max_batch_size=1)


@pytest.mark.triton
def test_warm_up_runs_every_bucket_and_all_streams(exported: Exported) -> None:
    folder = exported(CHUNK_MS)
    with running(folder) as triton:
        warm_up(triton.grpc_url, "asr_streaming", max_batch_size=64, streams=256)
        # Every slot is free again: the server has 256.
        warm_up(triton.grpc_url, "asr_streaming", max_batch_size=1, streams=256)
        with pytest.raises(TritonDied, match="warm-up with 300 streams failed"):
            warm_up(triton.grpc_url, "asr_streaming", max_batch_size=1, streams=300)
        with pytest.raises((TritonDied, InferenceServerException), match="nowhere"):
            warm_up(triton.grpc_url, "nowhere", max_batch_size=1, streams=1)
