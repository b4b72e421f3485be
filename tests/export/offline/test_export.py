"""`asr_offline`: its configs, ONNX files, manifest and gate."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export.checkpoint import load_checkpoint
from export.errors import ParityFailed
from export.install import write_configs
from export.offline import export as offline_export
from export.offline.config import config_files
from export.offline.export import spec_of
from export.offline.parity import check_offline_parity
from export.offline.spec import OfflineSpec
from export.options import ExportOptions
from export.recordings import load_recordings
from export.spec import StageSpec, served_name
from export.streaming import export as streaming_export
from tests.support.project import (
    ADAPTER_RANK,
    OFFLINE_KINDS,
    OFFLINE_NAMES,
    Exported,
    ExportedOffline,
    OfflineCheckpoint,
    run_export,
)
from tests.support.repository_files import (
    check_that_every_step_is_fed,
    config_tensors,
    onnx_tensors,
    read_config,
    spec_tensors,
)

KIND = "ctc"
CHUNK_MS = 320
FIRST_CONVOLUTION = "subsampling.convolutions.0.weight"
"""All later layers depend on it, but little on the largest tensor, that of the positions."""


@pytest.fixture(scope="module", params=OFFLINE_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def repository(exported_offline: ExportedOffline, kind: str) -> Path:
    return exported_offline(kind)


@pytest.fixture(scope="module")
def spec(offline_checkpoint: OfflineCheckpoint, kind: str) -> OfflineSpec:
    return spec_for(offline_checkpoint(kind), OFFLINE_NAMES.get(kind, ""))


def spec_for(folder: Path, name: str = "") -> OfflineSpec:
    return spec_of(load_checkpoint(str(folder)), ExportOptions(str(folder), name=name))


def members(spec: OfflineSpec) -> tuple[StageSpec, ...]:
    return (*spec.steps, spec.ensemble)


def test_configs_match_the_spec(repository: Path, spec: OfflineSpec, tmp_path: Path) -> None:
    plans = replace(spec, runtime="tensorrt")
    write_configs(tmp_path, config_files(plans))
    for folder, exported in ((repository, spec), (tmp_path, plans)):
        for stage in members(exported):
            config = read_config(folder / stage.name / "config.pbtxt")
            assert config.name == stage.name
            assert config_tensors(config.input) == spec_tensors(stage.inputs)
            assert config_tensors(config.output) == spec_tensors(stage.responses)
            assert config.HasField("dynamic_batching") or stage == exported.ensemble
            assert config.max_batch_size == spec.serving.max_batch_size


def test_every_step_of_the_ensemble_is_fed(repository: Path, spec: OfflineSpec) -> None:
    check_that_every_step_is_fed(repository, spec.ensemble.name)


def test_graphs_with_adapters_have_two_more_inputs(
    exported_offline: ExportedOffline, offline_checkpoint: OfflineCheckpoint
) -> None:
    spec = spec_for(offline_checkpoint("streaming"), OFFLINE_NAMES["streaming"])
    repository = exported_offline("streaming")
    manifest = json.loads((repository / spec.ensemble.name / "1" / "manifest.json").read_text())
    sizes = manifest["dims"]["adapter"]
    for stage in spec.stages[1:]:
        version = repository / stage.name / "1"
        graph = onnx.load(version / "adapted" / "model.onnx").graph
        inputs = free(onnx_tensors(graph.input))
        assert inputs.pop("ADAPTER_POOL") == ("FP32", (sizes[stage.role]["width"],))
        assert inputs.pop("ADAPTER_SLOTS") == ("INT64", ())
        assert inputs == spec_tensors(stage.inputs)
        assert free(onnx_tensors(graph.output)) == spec_tensors(stage.outputs)


def test_onnx_files_match_the_spec(repository: Path, spec: OfflineSpec) -> None:
    """Batch and time are free, everything else is fixed; only a transducer's decoder has a loop."""
    for stage in spec.stages:
        graph = onnx.load(repository / stage.name / "1" / "model.onnx").graph
        assert free(onnx_tensors(graph.input)) == spec_tensors(stage.inputs)
        assert free(onnx_tensors(graph.output)) == spec_tensors(stage.outputs)
        loops = [node for node in graph.node if node.op_type in ("Loop", "If", "Scan")]
        loop = stage.role == "decoder_offline" and spec.ctc_blank is None
        assert len(loops) == loop


def free(tensors):
    """Write free axes as Triton does."""
    return {
        name: (dtype, tuple(dim or -1 for dim in dims)) for name, (dtype, dims) in tensors.items()
    }


def test_manifest_describes_the_export(repository: Path, spec: OfflineSpec, kind: str) -> None:
    manifest = json.loads((repository / spec.ensemble.name / "1" / "manifest.json").read_text())
    assert manifest["checkpoint"]["architecture"] == spec.architecture
    assert manifest["parity"]["reference_tokens"] > 100
    assert manifest["parity"]["chain_token_difference"] == 0
    assert manifest["parity"]["alone_token_difference"] == 0
    assert manifest["buckets_ms"] == [2000, 4000, 8000, 15000, 30000]
    plain = {
        "decoder_offline/1/model.onnx",
        "decoder_offline/1/tokenizer.json",
        "encoder_offline/1/model.onnx",
        "feature_extractor_offline/1/model.onnx",
    }
    adapted = {"decoder_offline/1/adapted/model.onnx", "encoder_offline/1/adapted/model.onnx"}
    files = plain | adapted if kind == "streaming" else plain
    assert set(manifest["files"]) == {served_name(spec.name, file) for file in files}
    assert manifest.get("adapter_rank") == (ADAPTER_RANK if kind == "streaming" else None)


def test_any_batch_of_any_length_runs(repository: Path, spec: OfflineSpec) -> None:
    """Also shorter ones than the graph's example, and the longest bucket."""
    for batch, samples in [(1, 160), (3, 160), (1, 320), (2, 480_000)]:
        tensors: dict[str, Any] = {
            "AUDIO": np.zeros((batch, samples), np.float32),
            "AUDIO_LENGTH": np.full((batch, 1), samples, np.int32),
        }
        for stage in spec.stages:
            session = onnxruntime.InferenceSession(repository / stage.name / "1" / "model.onnx")
            names = [tensor.name for tensor in stage.outputs]
            tensors = dict(zip(names, session.run(names, tensors), strict=True))
        assert all(len(values) == batch for values in tensors.values())


@pytest.mark.parametrize("stage", ["feature_extractor", "encoder", "decoder"])
def test_the_gate_names_the_stage_that_differs(
    stage: str,
    exported_offline: ExportedOffline,
    offline_checkpoint: OfflineCheckpoint,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(exported_offline(KIND), tmp_path / "models")
    disturb(folder / f"{stage}_offline" / "1" / "model.onnx")
    checkpoint = load_checkpoint(str(offline_checkpoint(KIND)))
    speech = [recording.samples for recording in load_recordings()[:3]]
    with pytest.raises(ParityFailed, match=stage):
        check_offline_parity(checkpoint, folder, spec_for(offline_checkpoint(KIND)), speech)


def disturb(path: Path) -> None:
    """Change the encoder's first convolution, or another stage's largest weight, by a third."""
    model = onnx.load(path)
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    weight = max(weights, key=lambda t: (t.name == FIRST_CONVOLUTION, len(t.raw_data)))
    values = onnx.numpy_helper.to_array(weight)
    noise = np.random.default_rng(0).normal(1, 0.3, values.shape).astype(values.dtype)
    weight.CopyFrom(onnx.numpy_helper.from_array(values * noise, weight.name))
    onnx.save(model, path)


def test_with_both_modes_one_failed_gate_installs_nothing(
    random_checkpoint: Path,
    exported: Exported,
    exported_offline: ExportedOffline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The streaming models are not installed either, although they have passed their gate.

    The gates run; ONNX files of this checkpoint are copied, as writing them takes half a minute.
    """
    streaming, offline = exported(CHUNK_MS), exported_offline("streaming")
    repository = tmp_path / "models"
    for old in ("asr_streaming", "encoder", "encoder_offline"):
        (repository / old).mkdir(parents=True)
        (repository / old / "config.pbtxt").write_text("old")

    def copy_streaming(part: object, engine: StageSpec, path: Path) -> None:
        path.parent.mkdir(parents=True)
        shutil.copy(streaming / engine.name / "1" / "model.onnx", path)

    def copy_disturbed(folder: Path, stages: object, specs: list[StageSpec], most: int) -> None:
        assert (folder / "asr_streaming" / "1" / "manifest.json").is_file()
        for stage in specs:
            name = f"{OFFLINE_NAMES['streaming']}_{stage.name}"
            shutil.copytree(offline / name / "1", folder / stage.name / "1")
        disturb(folder / "encoder_offline" / "1" / "model.onnx")

    monkeypatch.setattr(streaming_export, "export_onnx", copy_streaming)
    monkeypatch.setattr(offline_export, "export_offline_onnx", copy_disturbed)
    arguments = ["--mode=both", f"--chunk-ms={CHUNK_MS}", "--repository", str(repository)]
    result = run_export(str(random_checkpoint), *arguments)
    assert result.exit_code == 1
    message = " ".join(result.stderr.split())
    assert "nothing was installed: encoder differs from transformers" in message
    assert "installed asr_streaming" not in message
    files = {path.relative_to(repository): path for path in repository.rglob("*") if path.is_file()}
    assert {str(name) for name in files} == {
        f"{old}/config.pbtxt" for old in ("asr_streaming", "encoder", "encoder_offline")
    }
    assert {path.read_text() for path in files.values()} == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize("mode", ["streaming", "both"])
def test_a_checkpoint_for_whole_utterances_does_not_stream(
    mode: str, offline_checkpoint: OfflineCheckpoint, tmp_path: Path
) -> None:
    arguments = ["--mode", mode, "--repository", str(tmp_path / "models")]
    result = run_export(str(offline_checkpoint(KIND)), *arguments)
    assert result.exit_code == 2
    assert "which recognizes whole utterances only" in " ".join(result.stderr.split())
    assert not (tmp_path / "models").exists()
