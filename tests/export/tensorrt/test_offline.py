"""Engines for whole utterances on a machine without TensorRT: graphs, shapes, configs.

ONNX Runtime takes the place of the engine, restricted to the shapes of its profiles.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import GraphRefused
from export.formats.onnx_stage import open_stateless
from export.offline.chain import OpenOfflineStage
from export.offline.config import config_files
from export.offline.export import Stages, build_stages, spec_of
from export.offline.parity import check_offline_parity
from export.offline.spec import OfflineSpec
from export.options import ExportOptions
from export.recordings import load_recordings
from export.spec import StageSpec, TensorSpec, served_name
from export.tensorrt import export_offline as tensorrt_export
from export.tensorrt.engine import build_engine
from export.tensorrt.export_offline import buffer_bytes, engine_stages, write_offline_graphs
from export.tensorrt.graph_gate import check_graph
from export.tensorrt.profiles import bucket_profiles
from export.tensorrt.targets import NamedGpus
from tests.support.project import (
    OFFLINE_KINDS,
    OFFLINE_NAMES,
    ExportedOffline,
    OfflineCheckpoint,
)
from tests.support.repository_files import read_config

LONGEST_S = 30


@pytest.fixture(scope="module", params=OFFLINE_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(kind: str, offline_checkpoint: OfflineCheckpoint) -> Checkpoint:
    return load_checkpoint(str(offline_checkpoint(kind)))


@pytest.fixture(scope="module")
def spec(checkpoint: Checkpoint) -> OfflineSpec:
    return spec_of(checkpoint, ExportOptions(checkpoint.name, runtime="tensorrt"))


@pytest.fixture(scope="module")
def stages(checkpoint: Checkpoint, spec: OfflineSpec) -> Stages:
    return build_stages(checkpoint, spec)


@pytest.fixture(scope="module")
def graphs(
    stages: Stages,
    spec: OfflineSpec,
    kind: str,
    exported_offline: ExportedOffline,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Write the ONNX files of all stages; those of engines have passed the graph gate.

    The same stages are exported for ONNX Runtime, to the same files: those are copied, as writing
    them takes longer than all that is tested here.
    """
    exported, name = exported_offline(kind), OFFLINE_NAMES.get(kind, "")

    def copy_exported(
        folder: Path, exported_stages: Stages, specs: Sequence[StageSpec], max_mel_frames: int
    ) -> None:
        other = replace(spec, runtime="onnxruntime")
        assert exported_stages is stages
        assert max_mel_frames == other.max_mel_frames
        for stage, same in zip(specs, other.stages, strict=True):
            assert (stage.inputs, stage.outputs) == (same.inputs, same.outputs)
            version = folder / stage.name / "1"
            version.mkdir(parents=True)
            shutil.copy(exported / served_name(name, stage.name) / "1" / "model.onnx", version)

    folder = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt_export, "export_offline_onnx", copy_exported)
        write_offline_graphs(folder, stages, spec, lambda step: None)
    return folder


def profiled(spec: OfflineSpec) -> OpenOfflineStage:
    """Open ONNX Runtime with a check that the shapes are those of a profile."""

    def open_stage(path: Path, stage: StageSpec):
        run, profiles = open_stateless(path, stage), bucket_profiles(stage, spec)

        def run_profile(*inputs):
            shapes = {t.name: x.shape for t, x in zip(stage.inputs, inputs, strict=True)}
            [_] = [p for p in profiles if all(fits(p.shapes(n), shapes[n]) for n in shapes)]
            return run(*inputs)

        return run_profile

    return open_stage


def fits(allowed: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> bool:
    least, _, most = allowed
    return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))


def test_the_graphs_match_transformers_in_the_shapes_of_the_profiles(
    checkpoint: Checkpoint, spec: OfflineSpec, graphs: Path
) -> None:
    speech = [recording.samples for recording in load_recordings()]
    parity = check_offline_parity(checkpoint, graphs, spec, speech, profiled(spec))
    assert parity.reference_tokens > 100
    assert parity.chain_token_difference == 0
    assert parity.alone_token_difference == 0


def test_an_engine_is_built_for_each_stage_without_a_loop(
    spec: OfflineSpec, graphs: Path, tmp_path: Path, record_engine
) -> None:
    """With a profile for each bucket, by NVIDIA's parser and builder."""
    for stage in engine_stages(spec):
        onnx = Path(shutil.copy(graphs / stage.name / "1" / "model.onnx", tmp_path))
        facts = build_engine(onnx, stage, bucket_profiles(stage, spec), NamedGpus(("sm89",)))
        assert facts.plan_bytes == (tmp_path / "model.engine").stat().st_size
        assert facts.layers > 10
        record_engine(f"{stage.name}, {spec.architecture}", "fp32", facts)


def test_a_profile_for_each_bucket_fits_the_next_stage(spec: OfflineSpec, graphs: Path) -> None:
    """The output of a stage in a bucket has the shape of the next stage's profile."""
    for stage, following in zip(spec.stages, spec.stages[1:], strict=False):
        for index, length in enumerate(spec.lengths(stage.inputs)):
            [least, tuned, most] = bucket_profiles(stage, spec)[index].shapes(stage.inputs[0].name)
            assert (least[:2], tuned[:2], most[:2]) == ((1, length), (32, length), (32, length))
            assert least[2:] == most[2:] == stage.inputs[0].dims[1:]
        run = open_stateless(graphs / stage.name / "1" / "model.onnx", stage)
        values, count = stage.inputs
        zeros = profile_zeros(spec, stage)
        output, _ = run(zeros[values.name], zeros[count.name])[:2]
        assert output.shape[1] == spec.lengths(following.inputs)[0], stage.name


def profile_zeros(spec: OfflineSpec, stage: StageSpec):
    dtypes = {"FP32": np.float32, "INT32": np.int32}
    profile = bucket_profiles(stage, spec)[0]
    return {t.name: np.zeros(profile.shapes(t.name)[0], dtypes[t.dtype]) for t in stage.inputs}


def test_configs_name_every_profile_and_leave_loops_to_the_cpu(spec: OfflineSpec) -> None:
    files = config_files(spec)
    plans = [
        stage for stage in spec.stages if "tensorrt_plan" in files[f"{stage.name}/config.pbtxt"]
    ]
    assert plans == engine_stages(spec)
    assert len(plans) == (3 if spec.ctc_blank is not None else 2)


def test_triton_reads_the_configs(spec: OfflineSpec, tmp_path: Path) -> None:
    for name, text in config_files(spec).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for stage in spec.stages:
        config = read_config(tmp_path / stage.name / "config.pbtxt")
        [group] = config.instance_group
        if stage in engine_stages(spec):
            assert list(group.profile) == ["0", "1", "2", "3", "4"]
            assert not config.input[0].allow_ragged_batch
        else:
            assert (config.backend, group.count) == ("earshot", 2)


def test_buffers_are_those_of_the_longest_bucket(spec: OfflineSpec) -> None:
    samples, frames = 16_000 * LONGEST_S, 100 * LONGEST_S
    floats = samples + 1 + frames * spec.num_mel_bins + 1
    assert buffer_bytes(spec.stages[0], spec) == 32 * 4 * floats


TIMED = StageSpec("toy", (TensorSpec("X", "FP32", (-1,)),), (TensorSpec("Y", "FP32", (-1,)),), None)


def toy_graph(path: Path, *nodes: onnx.NodeProto) -> Path:
    """Save a graph X [B, time] -> Y without state."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "time"]) for name in "XY"
    )
    graph = helper.make_graph(nodes, "toy", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_what_follows_from_the_length_may_vary(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["X"], ["Y"], name="the_relu")
    check_graph(toy_graph(tmp_path / "toy.onnx", relu), TIMED)


def test_a_size_that_depends_on_values_is_refused(tmp_path: Path) -> None:
    """The size is read from a tensor, so that it is known only after the run."""
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["longest"], keepdims=0),
        helper.make_node("Cast", ["longest"], ["size"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["size", "zeroth"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["many"], name="the_many"),
        helper.make_node("ReduceSum", ["many"], ["one"]),
        helper.make_node("Add", ["X", "one"], ["Y"]),
    ]
    zeroth = helper.make_node(
        "Constant", [], ["zeroth"], value=helper.make_tensor("", TensorProto.INT64, [1], [0])
    )
    with pytest.raises(GraphRefused, match=r"the_many .* gives many with the free axes"):
        check_graph(toy_graph(tmp_path / "toy.onnx", zeroth, *nodes), TIMED)


def test_a_decoder_that_loops_is_no_engine(spec: OfflineSpec, graphs: Path) -> None:
    if spec.ctc_blank is not None:
        pytest.skip("it does not loop")
    decoder = spec.stages[2]
    assert decoder not in engine_stages(spec)
    with pytest.raises(GraphRefused, match=r"decoder_offline: node \S+ is a Loop"):
        check_graph(graphs / decoder.name / "1" / "model.onnx", decoder)
