"""`--runtime tensorrt-rtx`: engines, manifest and table of an export without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.tensorrt.engine import EngineFacts, tensorrt_version
from export.tensorrt.export_rtx import onnx_function
from server.backends.earshot.earshot_runtime.engines import open_engine
from server.backends.earshot.earshot_runtime.errors import BadStage
from server.backends.earshot.earshot_runtime.program import compose
from server.backends.earshot.earshot_runtime.rtx_program import read_engines
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.backends.earshot.earshot_runtime.torch_engine import TorchEngine
from server.repository import read_repository
from tests.support.engine_table import RecordEngine
from tests.support.long_streams import assert_frames_are_exact
from tests.support.project import PROJECT
from tests.support.toy_stages import model_config

ENGINES = ["feature_extractor", "encoder", "decoder", "decoder/rounds", "decoder/end"]


@pytest.fixture(scope="module")
def repository(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtx") / "models"
    command = [sys.executable, "-m", "export", str(random_checkpoint), "--runtime=tensorrt-rtx"]
    command += ["--gpu=sm89,sm120", "--chunk-ms=160", f"--repository={folder}"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_stage_has_an_engine_and_a_place_in_the_manifest(
    record_engine: RecordEngine, repository: Path
) -> None:
    manifest = json.loads((repository / "asr_streaming" / "1" / "manifest.json").read_text())
    facts = manifest["tensorrt_rtx"]
    assert facts["gpus"] == ["sm89", "sm120"]
    assert facts["version"] == tensorrt_version()
    assert set(facts["engines"]) == set(ENGINES)
    for name, engine in facts["engines"].items():
        stage, _, part = name.partition("/")
        path = repository / stage / "1" / f"{part or 'model'}.engine"
        assert engine["plan_bytes"] == path.stat().st_size
        assert engine["layers"] > 30
        relative = path.relative_to(repository)
        assert engine["source_sha256"] == manifest["files"][str(relative.with_suffix(".onnx"))]
        assert str(relative) in manifest["files"]
        record_engine(f"{stage}/{part or 'model'}", "fp32", _facts(engine))
    rounds = facts["engines"]["decoder/rounds"]
    assert rounds["layers"] < 1000, "a round is short, whatever the length of a chunk"
    assert manifest["parity"]["chain_token_difference"] == 0


def test_the_table_lists_every_engine(repository: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    command = [sys.executable, "-m", "export.tensorrt.table", str(repository), f"--record={record}"]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert printed.stdout.count("160 ms") == len(ENGINES)
    written = json.loads(record.read_text())
    assert written["gpus"] == ["sm89", "sm120"]
    assert [row["graph"] for row in written["engines"]] == ENGINES


def test_a_repository_without_engines_has_no_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export.tensorrt.table", str(tmp_path)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no engines in" in result.stderr


def test_the_server_serves_them_on_their_gpus_only(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_repository(repository).runtime == "tensorrt-rtx"
    spec = _spec(repository, "encoder")
    folder = repository / "encoder" / "1"
    if not torch.cuda.is_available():
        with pytest.raises(BadStage, match=r"sm89, sm120 need such a GPU, and torch .* sees none"):
            open_engine(folder, spec)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    with pytest.raises(BadStage, match=r"H100 is sm90: .* --runtime torch if TensorRT for RTX"):
        open_engine(folder, spec)


@pytest.mark.parametrize("stage", ["feature_extractor", "encoder", "decoder"])
def test_the_backend_runs_the_parts_of_a_stage(repository: Path, stage: str) -> None:
    """With the engines' graphs in their place, in ONNX Runtime: the batch changes no stream."""
    together, apart = (_engine(repository, stage) for _ in range(2))
    slots = np.array([7, 0, 3])
    chance = np.random.default_rng(5)
    for step in range(3):
        values, length = together.inputs.values()
        values[:3] = chance.normal(0, 0.1, values[:3].shape)
        length[:3] = values.shape[1]
        rows = [array[:3].copy() for array in together.inputs.values()]
        together.run(slots, np.full(3, step == 0))
        for row, slot in enumerate(slots):
            for array, mine in zip(apart.inputs.values(), rows, strict=True):
                array[0] = mine[row]
            apart.run(np.array([slot]), np.array([step == 0]))
            for one, three in zip(apart.outputs.values(), together.outputs.values(), strict=True):
                np.testing.assert_allclose(one[0], three[row], atol=1e-4)


@torch.inference_mode()
def test_tokens_have_their_frames_after_weeks(repository: Path) -> None:
    engine = _engine(repository, "decoder")

    def step(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        for array, values in zip(engine.inputs.values(), inputs, strict=True):
            array[:2] = values
        engine.run(np.array([0, 1]), np.zeros(2, dtype=bool))
        return [output[:2].copy() for output in engine.outputs.values()]

    assert_frames_are_exact(step, engine._pools[0], *engine.inputs["ENCODED"].shape[1:])


def _engine(repository: Path, stage: str) -> TorchEngine:
    folder, spec = repository / stage / "1", _spec(repository, stage)
    parts = {path.stem: onnx_function(path) for path in folder.glob("*.onnx")}
    program = compose(spec, folder, read_engines(folder, spec), parts.__getitem__)
    return TorchEngine(program, spec, torch.device("cpu"))


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        ("ICudaEngine", ["create_runtime_config", "create_execution_context", "get_tensor_mode"]),
        ("IRuntimeConfig", ["create_runtime_cache", "set_runtime_cache"]),
        ("IRuntimeCache", ["serialize", "deserialize"]),
        ("IExecutionContext", ["set_input_shape", "set_tensor_address", "execute_async_v3"]),
        ("DynamicShapesKernelSpecializationStrategy", ["EAGER"]),
    ],
)
def test_the_bindings_have_what_the_backend_calls(owner: str, names: list[str]) -> None:
    """No engine can run here, so that a misspelt name would be found by the first user."""
    bindings = import_module("tensorrt_rtx_bindings")
    assert not [name for name in names if not hasattr(getattr(bindings, owner), name)]


def _facts(engine: dict[str, Any]) -> EngineFacts:
    return EngineFacts(**{field.name: engine[field.name] for field in fields(EngineFacts)})


def _spec(repository: Path, stage: str) -> StageSpec:
    return StageSpec.from_model_config(model_config(repository, stage))
