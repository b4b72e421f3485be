"""Opening and running engines of TensorRT for RTX, with a stand-in for its library on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from server.backends.earshot.earshot_runtime import rtx_program, rtx_requirements
from server.backends.earshot.earshot_runtime.errors import BadStage
from server.backends.earshot.earshot_runtime.rtx_program import open_rtx
from server.backends.earshot.earshot_runtime.spec import StageSpec
from tests.support import fake_rtx

STREAMS = 5
CONFIG: dict[str, Any] = {
    "name": "summer",
    "max_batch_size": fake_rtx.LARGEST_BATCH,
    "input": [
        {"name": "AUDIO", "data_type": "TYPE_FP32", "dims": ["2"]},
        {"name": "AUDIO_LENGTH", "data_type": "TYPE_INT32", "dims": ["1"]},
    ],
    "output": [{"name": "SUM", "data_type": "TYPE_FP32", "dims": ["2"]}],
    "sequence_batching": {"max_sequence_idle_microseconds": "1000000"},
    "parameters": {
        name: {"string_value": value}
        for name, value in {
            "runtime": "tensorrt-rtx",
            "max_streams": str(STREAMS),
            "state_rows": "1",
            "length_input": "AUDIO_LENGTH",
            "length_of": "AUDIO",
        }.items()
    },
}
TENSORS = {
    "inputs": [
        {"name": "AUDIO", "dtype": "float32", "dims": [2]},
        {"name": "AUDIO_LENGTH", "dtype": "int32", "dims": [1]},
    ],
    "outputs": [{"name": "SUM", "dtype": "float32", "dims": [2]}],
}
DESCRIPTION: dict[str, Any] = {
    **TENSORS,
    "format": 2,
    "precision": "fp32",
    "pools": [{"rows": 1, "width": 2, "dtype": "float32"}],
    "adapter_pools": [],
    "runs_of_rounds": 0,
    "gpus": ["sm89"],
    "version": fake_rtx.__version__,
    "driver": 580,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_running_sum(tmp_path / "model.engine")
    (tmp_path / "engines.json").write_text(json.dumps(DESCRIPTION))
    return tmp_path


@pytest.fixture
def spec() -> StageSpec:
    return StageSpec.from_model_config(CONFIG)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and TensorRT for RTX, as far as the backend can see."""
    monkeypatch.setitem(sys.modules, rtx_requirements.BINDINGS, fake_rtx)
    monkeypatch.setattr(rtx_requirements, "find_spec", lambda name: name)
    monkeypatch.setattr(rtx_requirements, "_driver", lambda: "580.65.06")
    monkeypatch.setattr(rtx_program, "_DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    stream = SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(fake_rtx.ExecutionContext, "compiled", 0)


def write_running_sum(path: Path) -> None:
    """Write `(AUDIO, AUDIO_LENGTH, POOL, SLOTS) -> (SUM, UPDATE, UPDATE_ROWS)`."""
    nodes = [
        helper.make_node("Gather", ["POOL", "SLOTS"], ["before"]),
        helper.make_node("Add", ["AUDIO", "before"], ["SUM"]),
        helper.make_node("Unsqueeze", ["SUM", "one"], ["UPDATE"]),
        helper.make_node("Cast", ["AUDIO_LENGTH"], ["length"], to=TensorProto.INT64),
        helper.make_node("Sub", ["length", "length"], ["UPDATE_ROWS"]),
    ]
    value = helper.make_tensor_value_info
    inputs = [
        value("AUDIO", TensorProto.FLOAT, ["batch", 2]),
        value("AUDIO_LENGTH", TensorProto.INT32, ["batch", 1]),
        value("POOL", TensorProto.FLOAT, ["rows", 2]),
        value("SLOTS", TensorProto.INT64, ["batch"]),
    ]
    outputs = [
        value("SUM", TensorProto.FLOAT, ["batch", 2]),
        value("UPDATE", TensorProto.FLOAT, ["batch", 1, 2]),
        value("UPDATE_ROWS", TensorProto.INT64, ["batch", 1]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "summer", inputs, outputs, [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)


def test_every_stream_keeps_its_own_sum(folder: Path, spec: StageSpec) -> None:
    engine = open_rtx(folder, spec)
    expected = np.zeros((STREAMS, 2), np.float32)
    for step, slots in enumerate([[3, 0, 1], [1, 3], [0, 1, 3], [3]]):
        chunks = np.random.default_rng(step).normal(size=(len(slots), 2)).astype(np.float32)
        engine.inputs["AUDIO"][: len(slots)] = chunks
        engine.inputs["AUDIO_LENGTH"][: len(slots)] = 2
        engine.run(np.array(slots), np.full(len(slots), step == 0))
        expected[slots] += chunks
        np.testing.assert_allclose(engine.outputs["SUM"][: len(slots)], expected[slots], rtol=1e-6)


def test_kernels_are_kept_and_found_again(folder: Path, spec: StageSpec) -> None:
    open_rtx(folder, spec)
    assert (folder / "model.kernels").read_bytes() == fake_rtx.COMPILED
    assert sorted(path.name for path in folder.iterdir()) == [
        "engines.json",
        "model.engine",
        "model.kernels",
    ]
    assert fake_rtx.ExecutionContext.compiled == 1
    open_rtx(folder, spec)
    assert fake_rtx.ExecutionContext.compiled == 1


def test_a_folder_that_cannot_be_written_is_no_error(
    folder: Path, spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    open_rtx(folder, spec)
    assert not (folder / "model.kernels").exists()


def test_a_file_that_is_no_engine_is_named(folder: Path, spec: StageSpec) -> None:
    (folder / "model.engine").write_bytes(b"of another version")
    with pytest.raises(BadStage, match=r"summer: .* 1\.7\.0\.1 does not load model\.engine"):
        open_rtx(folder, spec)


def test_a_batch_that_it_was_not_built_for_is_named(folder: Path) -> None:
    larger = StageSpec.from_model_config({**CONFIG, "max_batch_size": 2 * fake_rtx.LARGEST_BATCH})
    with pytest.raises(BadStage, match=r"model\.engine was not built for AUDIO \[16, 2\]"):
        open_rtx(folder, larger)


def test_a_run_that_fails_is_an_error(
    folder: Path, spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_rtx.ExecutionContext, "fails", True)
    with pytest.raises(RuntimeError, match=r"summer: model\.engine did not run"):
        open_rtx(folder, spec)


def test_another_version_or_an_old_driver_is_refused(
    folder: Path, spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rtx_requirements, "_driver", lambda: "575.57.08")
        with pytest.raises(BadStage, match=r"needs? driver 580 or newer, .* has 575\.57\.08"):
            open_rtx(folder, spec)
    monkeypatch.setattr(fake_rtx, "__version__", "1.8.0.2")
    with pytest.raises(BadStage, match=r"built by TensorRT for RTX 1\.7\.0\.1, installed is 1\.8"):
        open_rtx(folder, spec)


def test_engines_of_an_earlier_export_are_refused(folder: Path, spec: StageSpec) -> None:
    earlier = {name: value for name, value in DESCRIPTION.items() if name != "driver"}
    (folder / "engines.json").write_text(json.dumps(earlier))
    with pytest.raises(BadStage, match="export it again"):
        open_rtx(folder, spec)
