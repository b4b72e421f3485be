"""Runtimes, precisions and layouts of the export: configs, replaced models, refused options."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from export.checkpoint import Checkpoint, load_checkpoint
from export.cli import _require_possible, _warn_of_another_checkpoint
from export.errors import UnsupportedOption
from export.formats.onnx_file import TORCH_DTYPES
from export.formats.pooled_stage import open_torch_stage
from export.install import replacing
from export.offline.config import config_files as offline_config_files
from export.offline.export import spec_of as offline_spec_of
from export.options import ExportOptions, Serving
from export.recordings import load_recordings
from export.stages.half import half_stages
from export.stages.state import PooledStages
from export.streaming.chain import Chain
from export.streaming.config import config_files, engine_slots
from export.streaming.export import build_stages, export_streaming, spec_of
from export.streaming.spec import RECOGNIZER, StreamingSpec
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.repository import read_repository

# The generated protobuf classes carry no types.
_pb: Any = model_config_pb2

CHUNK_MS, FRAMES = 320, 4


def _spec(
    folder: Path,
    runtime: str,
    layout: str,
    precision: str = "fp32",
    own_engines: bool = False,
) -> StreamingSpec:
    checkpoint = load_checkpoint(str(folder))
    stages = half_stages(build_stages(checkpoint, FRAMES), precision)
    options = ExportOptions(
        str(folder),
        chunk_ms=CHUNK_MS,
        runtime=runtime,
        precision=precision,
        layout=layout,
        serving=Serving(max_streams=100, encoder_instances=3, own_engines=own_engines),
    )
    return spec_of(checkpoint, stages, options)


def _parsed(text: str) -> Any:
    return text_format.Parse(text, _pb.ModelConfig())


def test_the_fused_ensemble_keeps_its_contract(random_checkpoint: Path) -> None:
    stages = config_files(_spec(random_checkpoint, "onnxruntime", "stages"))
    fused = config_files(_spec(random_checkpoint, "onnxruntime", "fused"))
    before, after = (_parsed(files["asr_streaming/config.pbtxt"]) for files in (stages, fused))
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)
    steps = [step.model_name for step in after.ensemble_scheduling.step]
    assert steps == ["recognizer"]


def test_a_fused_model_has_the_state_of_its_members(random_checkpoint: Path) -> None:
    spec = _spec(random_checkpoint, "onnxruntime", "fused")
    config = _parsed(config_files(spec)["recognizer/config.pbtxt"])
    rows = [int(text) for text in config.parameters["state_rows"].string_value.split(",")]
    assert rows == [
        state.rows for state in (spec.feature_state, spec.encoder_state, spec.decoder_state)
    ]
    assert config.parameters["bounded_inputs"].string_value == "AUDIO"
    # Three instances of it; no other stage counts the streams.
    assert config.parameters["max_streams"].string_value == "34"


def test_instances_on_one_device_share_the_streams(random_checkpoint: Path) -> None:
    """Triton fills instances evenly; a pool for all streams in each would not fit a GPU."""
    config = _parsed(
        config_files(_spec(random_checkpoint, "torch", "fused"))["recognizer/config.pbtxt"]
    )
    [group] = config.instance_group
    assert (group.count, group.kind) == (3, _pb.ModelInstanceGroup.KIND_MODEL)
    assert config.parameters["max_streams"].string_value == "34"
    assert config.parameters["runtime"].string_value == "torch"


def test_the_engine_that_instances_share_has_the_slots_of_all(random_checkpoint: Path) -> None:
    spec = _spec(random_checkpoint, "tensorrt-rtx", "fused")
    config = json_format.MessageToDict(
        _parsed(config_files(spec)["recognizer/config.pbtxt"]), preserving_proto_field_name=True
    )
    served = StageSpec.from_model_config(config)
    assert served.shares_engine
    assert served.of_engine.sequence
    assert engine_slots(spec.recognizer, spec) == served.of_engine.sequence.max_streams == 3 * 34


def test_whole_files_beside_engines_of_tensorrt_for_rtx_are_served_on_cores(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    """Nothing opens an engine for whole files: `--mode both` exports them as without a GPU."""
    options = ExportOptions("mine", runtime="tensorrt-rtx", precision="fp16", gpus=("sm89",))
    whole = offline_spec_of(load_checkpoint(str(random_checkpoint)), options.of_whole_files)
    assert (whole.runtime, whole.precision) == ("onnxruntime", "fp32")
    streams = _spec(random_checkpoint, "tensorrt-rtx", "stages")
    for name, text in (config_files(streams) | offline_config_files(whole)).items():
        version = (tmp_path / name).parent / "1"
        version.mkdir(parents=True)
        (tmp_path / name).write_text(text)
        for file in ("tokenizer.json", "model.onnx" if "_offline" in name else "model.engine"):
            (version / file).touch()
    served = read_repository(tmp_path)
    assert served.runtime == "tensorrt-rtx"
    runtimes = {ensemble.name: ensemble.runtime for ensemble in served.ensembles}
    assert runtimes == {"asr_offline": "onnxruntime", "asr_streaming": "tensorrt-rtx"}


def test_engines_of_their_own_are_one_line_of_the_config(random_checkpoint: Path) -> None:
    """So that a service can be changed without another export."""
    shared, own = (
        config_files(_spec(random_checkpoint, "torch", "fused", own_engines=own))
        for own in (False, True)
    )
    lines = [files["recognizer/config.pbtxt"].splitlines() for files in (shared, own)]
    [added] = set(lines[1]) - set(lines[0])
    assert added == 'parameters { key: "engine" value: { string_value: "own" } }'
    assert [line for line in lines[1] if line != added] == lines[0]


def test_an_engine_of_its_own_has_the_slots_of_one_instance(random_checkpoint: Path) -> None:
    spec = _spec(random_checkpoint, "tensorrt-rtx", "fused", own_engines=True)
    config = json_format.MessageToDict(
        _parsed(config_files(spec)["recognizer/config.pbtxt"]), preserving_proto_field_name=True
    )
    served = StageSpec.from_model_config(config)
    assert (served.instances, served.shares_engine) == (3, False)
    assert served.sequence
    assert engine_slots(spec.recognizer, spec) == served.sequence.max_streams == 34


def test_engines_are_shared_on_a_gpu_only() -> None:
    with pytest.raises(UnsupportedOption, match="own-engines is for torch and tensorrt-rtx"):
        ExportOptions("checkpoint", serving=Serving(own_engines=True))


@pytest.mark.parametrize(
    ("runtime", "precision", "layout", "message"),
    [
        ("onnxruntime", "fp16", "stages", "runtime onnxruntime has no precision fp16"),
        ("torch", "int8", "stages", "runtime torch has no precision int8"),
        ("onnxruntime", "int8", "fused", "use --layout stages"),
    ],
)
def test_what_a_runtime_cannot_do_is_refused(
    runtime: str, precision: str, layout: str, message: str
) -> None:
    with pytest.raises(UnsupportedOption, match=message):
        ExportOptions("checkpoint", runtime=runtime, precision=precision, layout=layout)


STREAMING, CTC = "NemotronAsrStreamingForRNNT", "ParakeetForCTC"


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        (CTC, ExportOptions("mine", mode="both"), "recognizes whole utterances only.*offline"),
        (
            STREAMING,
            ExportOptions("mine", mode="both", runtime="tensorrt", precision="fp16"),
            "fp32 so far, not fp16",
        ),
        (
            CTC,
            ExportOptions("mine", mode="offline", runtime="tensorrt-rtx"),
            "builds engines for live streams.*--runtime torch on a GPU",
        ),
        (
            CTC,
            ExportOptions("mine", mode="offline", layout="fused"),
            "--layout fused is for live.*one model with torch",
        ),
        (
            CTC,
            ExportOptions("mine", mode="offline", runtime="torch", layout="stages"),
            "--layout stages is for live.*leave it out",
        ),
        (
            CTC,
            ExportOptions(
                "mine", mode="offline", runtime="torch", serving=Serving(own_engines=True)
            ),
            "--own-engines is for live streams.*leave it out",
        ),
    ],
)
def test_what_is_for_live_streams_is_refused_elsewhere(
    architecture: str, options: ExportOptions, message: str
) -> None:
    checkpoint = Checkpoint("mine", type(architecture, (), {})(), None, "")
    with pytest.raises(UnsupportedOption, match=message):
        _require_possible(checkpoint, options)


def test_an_ensemble_of_another_checkpoint_causes_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "clinic_asr_offline" / "1" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"checkpoint": {"name": "old", "sha256": "1"}}))
    for sha256, warning in (
        ("1", ""),
        ("2", "clinic_asr_offline in .* of another checkpoint .old."),
    ):
        checkpoint = Checkpoint("mine", None, None, sha256)
        options = ExportOptions("mine", tmp_path, mode="streaming", name="clinic")
        _warn_of_another_checkpoint(checkpoint, options)
        assert re.search(warning or r"\A\Z", capsys.readouterr().err)


def test_one_layout_replaces_the_other(random_checkpoint: Path, tmp_path: Path) -> None:
    repository = tmp_path / "r"
    for layout in ("stages", "fused", "stages"):
        spec = _spec(random_checkpoint, "onnxruntime", layout)
        with replacing(repository) as new:
            folder = new.add(spec.models, spec.obsolete_models)
            for name, text in config_files(spec).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text)
        assert sorted(path.name for path in repository.iterdir()) == sorted(spec.models)


def test_what_is_left_of_a_model_without_its_committed_config_goes(tmp_path: Path) -> None:
    left_over = tmp_path / "r" / "detokenizer"
    (left_over / "1").mkdir(parents=True)
    (left_over / "1" / "tokenizer.json").touch()
    with replacing(tmp_path / "r") as new:
        new.add([], ["detokenizer"])
    assert not left_over.exists()
    left_over.mkdir()
    (left_over / "notes.txt").touch()
    refused = pytest.raises(UnsupportedOption, match="holds no model config")
    with refused, replacing(tmp_path / "r") as new:
        new.add([], ["detokenizer"])


@pytest.mark.parametrize(("precision", "most"), [("fp16", 0.01), ("bf16", 0.05)])
def test_half_precision_stays_close(random_checkpoint: Path, precision: str, most: float) -> None:
    """Frames are compared, not tokens, because random logits lie close together."""
    exact = _encoded(random_checkpoint, "fp32")
    rounded = _encoded(random_checkpoint, precision)
    assert 1e-6 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < most


@torch.inference_mode()
def _encoded(folder: Path, precision: str) -> np.ndarray:
    """Return the encoder's output for three chunks of noise."""
    _, encoder, _ = half_stages(build_stages(load_checkpoint(str(folder)), FRAMES), precision)
    dtype = TORCH_DTYPES[encoder.layout.dtype]
    pool = torch.zeros(encoder.layout.rows, encoder.layout.width, dtype=dtype)
    frames = 8 * FRAMES
    mel = torch.randn(3, 1, frames, 80, generator=torch.Generator().manual_seed(0)) - 8
    encoded: list[np.ndarray] = []
    for chunk in mel:
        results = PooledStages([encoder]).eval()(
            chunk, torch.full((1, 1), frames, dtype=torch.int32), pool, torch.tensor([0])
        )
        pool[results[3][0]] = results[2][0]
        encoded.append(results[0][0].numpy())
    return np.concatenate(encoded)


def test_a_program_in_16_bits_recognizes_tokens(random_checkpoint: Path, tmp_path: Path) -> None:
    speech = [recording.samples[:16_000] for recording in load_recordings()[:3]]
    options = ExportOptions(
        str(random_checkpoint),
        tmp_path / "r",
        chunk_ms=CHUNK_MS,
        runtime="torch",
        precision="fp16",
        layout="fused",
        compare=False,
    )
    with replacing(options.repository) as new:
        export_streaming(load_checkpoint(options.checkpoint), options, new, lambda _: None)
    manifest = tmp_path / "r" / "asr_streaming" / "1" / "manifest.json"
    assert json.loads(manifest.read_text())["parity"] is None
    spec = _spec(random_checkpoint, "torch", "fused", "fp16")
    results = Chain(tmp_path / "r", spec, len(speech), open_torch_stage).transcribe(speech)
    assert sum(len(result.tokens) for result in results) > 3


def test_a_chunk_without_any_frame_is_finite_in_fp16(random_checkpoint: Path) -> None:
    """Every key is masked then; the mask must not be infinite."""
    checkpoint = load_checkpoint(str(random_checkpoint))
    _, encoder, _ = half_stages(build_stages(checkpoint, FRAMES), "fp16")
    pool = torch.zeros(encoder.layout.rows, encoder.layout.width, dtype=torch.float16)
    mel, length = torch.zeros(1, 8 * FRAMES, 80), torch.zeros(1, 1, dtype=torch.int32)
    with torch.inference_mode():
        results = PooledStages([encoder]).eval()(mel, length, pool, torch.tensor([0]))
    assert all(result.isfinite().all() for result in results if result.is_floating_point())


def test_the_recognizer_is_its_stages_in_a_row(random_checkpoint: Path) -> None:
    spec = _spec(random_checkpoint, "onnxruntime", "fused")
    assert spec.recognizer.name == RECOGNIZER
    assert spec.recognizer.inputs == spec.stages[0].inputs
    assert spec.recognizer.outputs == spec.stages[-1].outputs
    assert spec.obsolete_models == ["feature_extractor", "encoder", "decoder", "detokenizer"]
