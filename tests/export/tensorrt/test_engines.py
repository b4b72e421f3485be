"""Engines of every stage and precision, built by NVIDIA's parser and builder without a GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.checkpoint import load_checkpoint
from export.offline.export import build_stages as build_offline_stages
from export.offline.export import spec_of as offline_spec_of
from export.options import ExportOptions
from export.spec import StageSpec
from export.tensorrt.engine import build_engine, tensorrt_version
from export.tensorrt.export_offline import engine_stages, write_offline_graphs
from export.tensorrt.profiles import bucket_profiles, chunk_profiles
from export.tensorrt.targets import NamedGpus
from server.repository import read_repository
from tests.support.engine_table import RecordEngine
from tests.support.project import DEMO_CHECKPOINT, PROJECT
from tests.support.tensorrt_graphs import FlatGraphs, Graphs

STAGES = ("feature_extractor", "encoder", "decoder")


def stage_of(graphs: Graphs, name: str, folder: Path) -> tuple[StageSpec, Path]:
    """Copy the graph of a stage to `folder`, which other tests do not write to."""
    stage = graphs.spec.stages[STAGES.index(name)]
    source = graphs.folder / name / "1"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return stage, folder / "model.onnx"


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_is_built(
    record_engine: RecordEngine,
    flat_graphs: FlatGraphs,
    precision: str,
    name: str,
    tmp_path: Path,
) -> None:
    stage, path = stage_of(flat_graphs(precision), name, tmp_path)
    facts = build_engine(path, stage, chunk_profiles(stage, 64), NamedGpus(("sm80", "sm120")))
    assert facts.layers > 100
    assert facts.plan_bytes == (tmp_path / "model.engine").stat().st_size
    assert facts.device_memory_bytes is None
    record_engine(f"{name}, straight line", precision, facts)


def test_an_fp8_encoder_is_built(
    record_engine: RecordEngine, flat_graphs: FlatGraphs, tmp_path: Path
) -> None:
    """With Q/DQ around every linear layer, as modelopt places them; with scales of one."""
    stage, path = stage_of(flat_graphs("fp16"), "encoder", tmp_path)
    quantize_gemms(path)
    facts = build_engine(path, stage, chunk_profiles(stage, 64), NamedGpus(("sm89",)))
    assert facts.layers > 100
    record_engine("encoder, straight line", "fp8", facts)


def quantize_gemms(path: Path) -> None:
    """Round activations and weights of every Gemm to fp8, with a scale of one."""
    model = onnx.load(path)
    scale = helper.make_tensor("fp8_scale", TensorProto.FLOAT16, [], [1.0])
    zero = helper.make_tensor("fp8_zero", TensorProto.FLOAT8E4M3FN, [], [0])
    model.graph.initializer.extend([scale, zero])
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Gemm":
            for index in (0, 1):
                name = f"{node.name}_{index}"
                rounded, exact = f"{name}_q", node.input[index]
                scaling = [scale.name, zero.name]
                nodes.append(helper.make_node("QuantizeLinear", [exact, *scaling], [rounded]))
                nodes.append(helper.make_node("DequantizeLinear", [rounded, *scaling], [name]))
                node.input[index] = name
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("precision", "mode"), [("fp32", "both"), ("fp16", "streaming"), ("bf16", "streaming")]
)
def test_engines_of_the_demo_model_are_built(precision: str, mode: str, tmp_path: Path) -> None:
    """Of the sizes that are served, with whole files beside them in ONNX Runtime."""
    command = [sys.executable, "-m", "export", str(DEMO_CHECKPOINT), "--runtime=tensorrt-rtx"]
    command += [f"--precision={precision}", f"--mode={mode}", f"--repository={tmp_path / 'models'}"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("models/*/1/*.engine"))) == 5
    served = {each.name: each.runtime for each in read_repository(tmp_path / "models").ensembles}
    assert served.pop("asr_streaming") == "tensorrt-rtx"
    assert served == ({"asr_offline": "onnxruntime"} if mode == "both" else {})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_engines_of_the_demo_model_for_whole_files_are_built(tmp_path: Path) -> None:
    """They need the most scratch memory of all."""
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    spec = offline_spec_of(checkpoint, ExportOptions(checkpoint.name, runtime="tensorrt"))
    stages = build_offline_stages(checkpoint, spec)
    write_offline_graphs(tmp_path, stages, spec, lambda step: None)
    for stage in engine_stages(spec):
        onnx_path = tmp_path / stage.name / "1" / "model.onnx"
        profiles = bucket_profiles(stage, spec)
        assert build_engine(onnx_path, stage, profiles, NamedGpus(("sm80", "sm120"))).layers > 100


def test_the_version_is_that_of_the_pinned_wheels() -> None:
    pinned = (PROJECT / "constraints.txt").read_text().split()
    assert f"tensorrt-rtx-cu13-bindings=={tensorrt_version()}" in pinned
    assert f"tensorrt-rtx-cu13-libs=={tensorrt_version()}" in pinned
