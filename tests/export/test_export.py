"""`python -m export`: installed files, refused options, and no change after a failed gate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file

from export.checkpoint import load_checkpoint
from export.errors import ParityFailed, UnsupportedCheckpoint, UnsupportedOption
from export.formats.onnx_file import quantize_encoder
from export.install import replacing
from export.options import ExportOptions
from export.recordings import load_recordings
from export.streaming.chain import Chain
from export.streaming.export import build_stages, spec_of
from export.streaming.parity import check_parity
from export.streaming.spec import StreamingSpec
from tests.support.project import PROJECT, Exported, run_export


def spec_for(checkpoint_folder: Path, precision: str = "fp32") -> StreamingSpec:
    checkpoint = load_checkpoint(str(checkpoint_folder))
    options = ExportOptions(str(checkpoint_folder), chunk_ms=320, precision=precision)
    return spec_of(checkpoint, build_stages(checkpoint, options.frames), options)


def test_manifest_describes_the_export(exported: Exported, random_checkpoint: Path) -> None:
    manifest = json.loads((exported(320) / "asr_streaming" / "1" / "manifest.json").read_text())
    assert manifest["checkpoint"]["sha256"] == load_checkpoint(str(random_checkpoint)).sha256
    assert manifest["chunk_ms"] == 320
    assert manifest["parity"]["reference_tokens"] > 100
    assert manifest["parity"]["chain_token_difference"] == 0
    assert manifest["parity"]["alone_token_difference"] == 0
    assert sorted(manifest["files"]) == [
        "decoder/1/adapted/model.onnx",
        "decoder/1/model.onnx",
        "decoder/1/tokenizer.json",
        "encoder/1/adapted/model.onnx",
        "encoder/1/model.onnx",
        "feature_extractor/1/model.onnx",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/does/not/exist"], "neither a local checkpoint folder"),
        ([str(PROJECT / "recordings")], "no config.json"),
        (["CHECKPOINT", "--chunk-ms", "100"], "80, 160, 320, 560, 1120"),
        (["CHECKPOINT", "--precision", "fp4"], "fp4"),
        (["CHECKPOINT", "--runtime", "tflite"], "tflite"),
    ],
)
def test_a_users_mistake_exits_with_2(
    arguments: list[str], message: str, random_checkpoint: Path
) -> None:
    arguments = [str(random_checkpoint) if word == "CHECKPOINT" else word for word in arguments]
    result = run_export(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    result = run_export(str(tmp_path))
    assert result.exit_code == 2
    assert "whisper" in result.stderr
    assert "NemotronAsrStreamingForRNNT" in result.stderr


def test_a_checkpoint_that_lacks_a_weight_is_refused(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    """It would be random, in the reference as well, and parity would hold."""
    folder = shutil.copytree(random_checkpoint, tmp_path / "holey")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layers.1.feed_forward1.linear1.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedCheckpoint, match=r"lacks 1 weights .*linear1\.bias"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(
    random_checkpoint: Path, tmp_path: Path, value: float
) -> None:
    folder = shutil.copytree(random_checkpoint, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layers.1.feed_forward1.linear1.bias"][3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedCheckpoint, match=r"linear1\.bias holds NaN or infinity"):
        load_checkpoint(str(folder))


def test_a_truncated_checkpoint_is_refused(random_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(random_checkpoint, tmp_path / "cut")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UnsupportedCheckpoint, match="cannot be loaded"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("content", ["garbage", "{}", None])
def test_a_bad_tokenizer_is_named_in_one_line(
    random_checkpoint: Path, tmp_path: Path, content: str | None
) -> None:
    folder = shutil.copytree(random_checkpoint, tmp_path / "mute")
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UnsupportedCheckpoint) as caught:
        load_checkpoint(str(folder))
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"the tokenizer or the feature extractor of {folder} cannot be loaded")


def test_a_chunk_the_model_was_not_trained_for_is_refused(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(random_checkpoint, tmp_path / "narrow")
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["supported_num_lookahead_tokens"] = [13, 6, 1, 0]
    (folder / "processor_config.json").write_text(json.dumps(processor))
    result = run_export(str(folder), "--chunk-ms", "320", "--repository", str(tmp_path / "models"))
    assert result.exit_code == 2
    assert "80, 160, 560, 1120" in " ".join(result.stderr.split())
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("stage", ["feature_extractor", "encoder", "decoder"])
def test_the_gate_names_the_stage_that_differs(
    stage: str, exported: Exported, random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported(320), tmp_path / "models")
    disturb(folder / stage / "1" / "model.onnx")
    checkpoint = load_checkpoint(str(random_checkpoint))
    speech = [recording.samples for recording in load_recordings()[:3]]
    with pytest.raises(ParityFailed, match=stage):
        check_parity(checkpoint, folder, spec_for(random_checkpoint), speech)


def disturb(path: Path) -> None:
    """Change the largest weight of an ONNX file by a few percent."""
    model = onnx.load(path)
    tensors = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    tensors += [
        tensor
        for node in model.graph.node
        if node.op_type == "Loop"
        for tensor in node.attribute[0].g.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    ]
    largest = max(tensors, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(largest)
    noise = np.random.default_rng(0).normal(1, 0.3, values.shape).astype(values.dtype)
    largest.CopyFrom(onnx.numpy_helper.from_array(values * noise, largest.name))
    onnx.save(model, path)


def test_a_failed_export_leaves_the_repository_untouched(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    (repository / "encoder").mkdir(parents=True)
    (repository / "encoder" / "config.pbtxt").write_text("old")
    with pytest.raises(ParityFailed), replacing(repository) as new:
        folder = new.add(["encoder"])
        (folder / "encoder").mkdir()
        (folder / "encoder" / "config.pbtxt").write_text("new")
        raise ParityFailed("encoder")
    assert (repository / "encoder" / "config.pbtxt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_an_interrupted_swap_puts_the_old_models_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models"
    for model in ("encoder", "decoder"):
        (repository / model).mkdir(parents=True)
        (repository / model / "config.pbtxt").write_text("old")
    rename, renames = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        renames.append(target)
        if len(renames) == 4:  # the decoder's old folder is out of the way, its new one not in
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(repository) as new:
        folder = new.add(["encoder", "decoder"])
        for model in ("encoder", "decoder"):
            (folder / model).mkdir()
            (folder / model / "config.pbtxt").write_text("new")
    for model in ("encoder", "decoder"):
        assert (repository / model / "config.pbtxt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "thesis.txt").write_text("years of work")
    refused = pytest.raises(UnsupportedOption, match="not a model repository")
    with refused, replacing(tmp_path) as new:
        new.add(["encoder"])
    assert (tmp_path / "encoder" / "thesis.txt").exists()


def test_other_models_of_the_repository_stay(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    (repository / "other").mkdir(parents=True)
    (repository / "encoder").mkdir()
    (repository / "encoder" / "config.pbtxt").touch()
    (repository / "encoder" / "stale").touch()
    with replacing(repository) as new:
        folder = new.add(["encoder"])
        (folder / "encoder").mkdir()
        (folder / "encoder" / "new").touch()
    assert (repository / "other").is_dir()
    assert [path.name for path in (repository / "encoder").iterdir()] == ["new"]


def test_int8_encoder_has_integer_products_and_still_recognizes(
    exported: Exported, random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported(320), tmp_path / "models")
    path = folder / "encoder" / "1" / "model.onnx"
    before = path.stat().st_size
    quantize_encoder(path)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "MatMulInteger" in operators
    assert path.stat().st_size < before
    speech = [recording.samples for recording in load_recordings()[:3]]
    results = Chain(folder, spec_for(random_checkpoint, "int8"), len(speech)).transcribe(speech)
    assert all(np.isfinite(np.concatenate(result.encoded)).all() for result in results)
