"""Spec, configs, ensemble and ONNX files have the same names, dtypes and dims."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from export.checkpoint import load_checkpoint
from export.errors import UnsupportedOption
from export.install import write_configs
from export.options import ExportOptions
from export.spec import StageSpec
from export.streaming.config import config_files
from export.streaming.export import build_stages, spec_of
from export.streaming.spec import StreamingSpec
from tests.support.project import DEMO_CHECKPOINT, PROJECT, Exported
from tests.support.repository_files import (
    check_that_every_step_is_fed,
    config_tensors,
    onnx_tensors,
    read_config,
    spec_tensors,
)

CHUNK_MS = 320
STAGES = ("feature_extractor", "encoder", "decoder")


@pytest.fixture(scope="module")
def repository(exported: Exported) -> Path:
    return exported(CHUNK_MS)


@pytest.fixture(scope="module")
def spec(random_checkpoint: Path) -> StreamingSpec:
    checkpoint = load_checkpoint(str(random_checkpoint))
    options = ExportOptions(str(random_checkpoint), chunk_ms=CHUNK_MS)
    return spec_of(checkpoint, build_stages(checkpoint, options.frames), options)


def stage_of(spec: StreamingSpec, name: str) -> StageSpec:
    return next(stage for stage in (*spec.steps, spec.ensemble) if stage.name == name)


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_configs_match_the_spec(
    repository: Path, spec: StreamingSpec, runtime: str, tmp_path: Path
) -> None:
    spec = replace(spec, runtime=runtime)
    if runtime == "tensorrt":
        repository = tmp_path
        write_configs(repository, config_files(spec))
    steps = [*STAGES, *(["detokenizer"] if runtime == "tensorrt" else [])]
    assert [stage.name for stage in spec.steps] == steps
    for stage in (*spec.steps, spec.ensemble):
        config = read_config(repository / stage.name / "config.pbtxt")
        assert config.name == stage.name
        assert config_tensors(config.input) == spec_tensors(stage.inputs)
        assert config_tensors(config.output) == spec_tensors(stage.responses)
    check_that_every_step_is_fed(repository, "asr_streaming")


@pytest.mark.parametrize("name", STAGES)
def test_onnx_files_match_the_spec(repository: Path, spec: StreamingSpec, name: str) -> None:
    stage = stage_of(spec, name)
    assert stage.state is not None
    graph = onnx.load(repository / name / "1" / "model.onnx").graph
    inputs, outputs = onnx_tensors(graph.input), onnx_tensors(graph.output)
    assert inputs.pop("POOL") == ("FP32", (stage.state.width,))
    assert inputs.pop("SLOTS") == ("INT64", ())
    assert outputs.pop("UPDATE")[1][-1] == stage.state.width
    assert outputs.pop("UPDATE_ROWS")[0] == "INT64"
    assert inputs == spec_tensors(stage.inputs)
    assert outputs == spec_tensors(stage.outputs)


def test_a_name_prefixes_every_model_and_nothing_else(spec: StreamingSpec) -> None:
    unnamed, named = config_files(spec), config_files(replace(spec, name="clinic_v2"))
    assert set(named) == {f"clinic_v2_{path}" for path in unnamed}
    for path, text in unnamed.items():
        for role in (*STAGES, "asr_streaming"):
            text = text.replace(f'name: "{role}"', f'name: "clinic_v2_{role}"')
            text = text.replace(f"# {role},", f"# clinic_v2_{role},")
        assert named[f"clinic_v2_{path}"] == text


@pytest.mark.parametrize("name", ["", "clinic", "clinic_v2", "7b"])
def test_valid_names(name: str) -> None:
    ExportOptions("checkpoint", name=name)


@pytest.mark.parametrize("name", ["Clinic", "a-b", "a/b", "_a", "a_", "a__b", "default", " "])
def test_invalid_names(name: str) -> None:
    with pytest.raises(UnsupportedOption, match="lower-case letters and digits"):
        ExportOptions("checkpoint", name=name)


def test_implicit_state_has_the_size_of_the_layout(spec: StreamingSpec, tmp_path: Path) -> None:
    write_configs(tmp_path, config_files(replace(spec, runtime="tensorrt")))
    for stage in spec.stages:
        assert stage.state is not None
        config = read_config(tmp_path / stage.name / "config.pbtxt")
        [state] = config.sequence_batching.state
        assert list(state.dims) == [stage.state.size]
        assert list(state.initial_state[0].dims) == [stage.state.size]


def test_committed_configs_are_those_of_the_demo_checkpoint() -> None:
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    options = ExportOptions(str(DEMO_CHECKPOINT))
    spec = spec_of(checkpoint, build_stages(checkpoint, options.frames), options)
    for name, text in config_files(spec).items():
        path = PROJECT / "model_repository" / name
        assert path.read_text() == text, f"{path} is stale: run `make export`"
