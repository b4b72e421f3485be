"""Heads are installed beside their base if they equal attention over the whole recording."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import ExportError, ParityFailed, UnsupportedCheckpoint, UnsupportedOption
from export.formats.onnx_file import export_onnx
from export.formats.onnx_stage import OnnxStage
from export.heads.cli import main
from export.heads.export import HeadOptions, export_heads
from export.heads.files import read_heads
from export.heads.parity import probabilities
from export.shared import outdated
from export.spec import StageSpec, TensorSpec
from export.stages.heads import Heads
from export.stages.state import FlatStage
from tests.support.checkpoints import write_random_checkpoint
from tests.support.heads import HEADS, write_random_heads
from tests.support.project import Exported

CHUNK_MS, FRAMES, WIDTH = 320, 4, 32


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(random_checkpoint))


@pytest.fixture
def repository(exported: Exported, tmp_path: Path) -> Path:
    return shutil.copytree(exported(CHUNK_MS), tmp_path / "models")


def options_for(
    repository: Path, heads: Path, checkpoint: Path, name: str = "orders"
) -> HeadOptions:
    return HeadOptions((heads,), str(checkpoint), name, "", repository)


def silent(step: str) -> None:
    pass


def test_heads_are_installed_beside_the_base_which_stays(
    repository: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    first = write_random_heads(tmp_path / "a", random_checkpoint, WIDTH, FRAMES - 1)
    second = write_random_heads(tmp_path / "b", random_checkpoint, WIDTH, FRAMES - 1, 1, "other ")
    app = Typer()
    app.command()(main)
    arguments = [str(first), str(second), "--name", "orders", "--checkpoint"]
    arguments += [str(random_checkpoint), "--repository", str(repository)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "0.00% differ" in done.output
    assert {path: path.read_bytes() for path in before} == before
    manifest = json.loads((repository / "orders_asr_streaming/1/manifest.json").read_text())
    assert list(manifest["heads"]) == ["size", "native", "other size", "other native"]
    assert manifest["base"] == "asr_streaming"
    assert manifest["parity"]["labels"] > 100
    assert outdated(repository, "asr_streaming") == {}
    base = repository / "asr_streaming/1/manifest.json"
    base.write_text(base.read_text().replace('"chunk_ms": 320', '"chunk_ms": 560'))
    assert outdated(repository, "asr_streaming") == {
        "orders_asr_streaming": "python -m export.heads"
    }
    again = CliRunner().invoke(app, [*arguments, "--base", "orders", "--name", "more"])
    assert again.exit_code == 2
    assert "shares those of asr_streaming" in " ".join(again.output.split())


@pytest.mark.parametrize("cuts", [[4] * 10, [4] * 6 + [1], [4, 4, 0], [3], [0]])
def test_streamed_labels_equal_those_of_the_whole_recording(
    cuts: list[int], random_checkpoint: Path, tmp_path: Path
) -> None:
    heads = read_heads(write_random_heads(tmp_path / "a", random_checkpoint, WIDTH, 3)).heads
    stage = Heads([head.weights for head in heads])
    frames = torch.randn(sum(cuts), WIDTH)
    state = torch.zeros(1, stage.layout.size)
    labels, likely = torch.zeros(0), torch.zeros(0)
    for start, valid in zip(np.cumsum([0, *cuts]), cuts, strict=False):
        # What lies behind the end of a recording must not count.
        chunk = torch.full((1, FRAMES, WIDTH), 7.0)
        chunk[0, :valid] = frames[start : start + valid]
        labels, likely, state = FlatStage(stage)(chunk, torch.tensor([[valid]]), state)
    for index, head in enumerate(heads):
        expected = (
            probabilities(head.weights, frames) if len(frames) else head.weights.bias.softmax(dim=0)
        )
        assert labels[0, index] == expected.argmax()
        assert torch.isclose(likely[0, index], expected.max(), atol=1e-5)


def test_hours_of_frames_neither_overflow_nor_drift(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    """Three hours, whose frames get the largest weights that there are."""
    heads = read_heads(write_random_heads(tmp_path / "a", random_checkpoint, WIDTH, 3)).heads
    stage = Heads([head.weights for head in heads])
    spec = StageSpec(
        "heads",
        (
            TensorSpec("ENCODED", "FP32", (FRAMES, WIDTH)),
            TensorSpec("ENCODED_LENGTH", "INT32", (1,)),
        ),
        (TensorSpec("LABELS", "INT32", (2,)), TensorSpec("LABEL_PROBS", "FP32", (2,))),
        stage.layout,
    )
    export_onnx([stage], spec, tmp_path / "model.onnx")
    session = OnnxStage(tmp_path / "model.onnx", spec, 1)
    chunk = (100 * heads[0].weights.query.sum(dim=0)).expand(1, FRAMES, WIDTH)
    inputs = [chunk.numpy(), np.array([[FRAMES]], np.int32)]
    first = session.step(inputs, np.array([0]))
    session.pools[0] *= 3 * 3600 * 1000 / CHUNK_MS  # as after so many of them
    after_hours = session.step(inputs, np.array([0]))
    for got, expected in zip(after_hours, first, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_encoder_that_is_not_that_of_the_checkpoint_is_refused(
    repository: Path, checkpoint: Checkpoint, random_checkpoint: Path, tmp_path: Path
) -> None:
    """The parity gate looks at what is served, not at what manifests say."""
    heads = write_random_heads(tmp_path / "heads", random_checkpoint, WIDTH, FRAMES - 1)
    path = repository / "encoder" / "1" / "model.onnx"
    model = onnx.load(path)
    weight = next(w for w in model.graph.initializer if len(w.dims) == 2)
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(1.3 * values, weight.name))
    onnx.save(model, path)
    with pytest.raises(ParityFailed, match="behind the served encoder differ from transformers"):
        export_heads(options_for(repository, heads, random_checkpoint), checkpoint, silent)
    assert not (repository / "orders_heads").exists()


def test_a_stage_with_other_weights_is_refused(
    repository: Path,
    checkpoint: Checkpoint,
    random_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads = write_random_heads(tmp_path / "heads", random_checkpoint, WIDTH, FRAMES - 1)

    def wrong(weights: list) -> Heads:
        stage = Heads(weights)
        stage.query[0] += 0.1
        return stage

    monkeypatch.setattr("export.heads.export.Heads", wrong)
    with pytest.raises(ParityFailed, match="probabilities of the heads differ"):
        export_heads(options_for(repository, heads, random_checkpoint), checkpoint, silent)
    assert not (repository / "orders_asr_streaming").exists()


def test_heads_of_other_weights_or_chunks_are_refused(
    repository: Path, checkpoint: Checkpoint, random_checkpoint: Path, tmp_path: Path
) -> None:
    other = write_random_checkpoint(tmp_path / "other", seed=1)

    def refusal(heads: Path, weights: Path = random_checkpoint, loaded: Checkpoint = checkpoint):
        with pytest.raises(ExportError) as caught:
            export_heads(options_for(repository, heads, weights), loaded, silent)
        return str(caught.value)

    of_others = write_random_heads(tmp_path / "a", other, WIDTH, FRAMES - 1)
    assert "was trained on weights with sha256" in refusal(of_others)
    assert "was exported from other weights" in refusal(
        of_others, other, load_checkpoint(str(other))
    )
    of_other_chunks = write_random_heads(tmp_path / "b", random_checkpoint, WIDTH, 6)
    assert "train it with --lookahead 3" in refusal(of_other_chunks)
    twice = write_random_heads(tmp_path / "c", random_checkpoint, WIDTH, FRAMES - 1)
    options = HeadOptions((twice, twice), str(random_checkpoint), "orders", "", repository)
    with pytest.raises(UnsupportedOption, match="two heads are called 'size'"):
        export_heads(options, checkpoint, silent)
    options = HeadOptions((twice,), str(random_checkpoint), "orders", "", repository, ("age",))
    with pytest.raises(UnsupportedOption, match="no head is called 'age'; there are size, native"):
        export_heads(options, checkpoint, silent)


def test_what_is_no_head_or_no_base_is_refused(
    repository: Path, checkpoint: Checkpoint, random_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="expected heads of"):
        read_heads(random_checkpoint)
    heads = write_random_heads(tmp_path / "heads", random_checkpoint, WIDTH, FRAMES - 1)
    options = HeadOptions((heads,), str(random_checkpoint), "orders", "clinic", repository)
    with pytest.raises(UnsupportedOption, match="no recognizer clinic_asr_streaming"):
        export_heads(options, checkpoint, silent)
    with pytest.raises(UnsupportedOption, match="which stays as it is"):
        options_for(repository, heads, random_checkpoint, name="")
    manifest = repository / "asr_streaming/1/manifest.json"
    manifest.write_text(manifest.read_text().replace('"layout": "stages"', '"layout": "fused"'))
    with pytest.raises(UnsupportedOption, match="in the layout stages"):
        export_heads(options_for(repository, heads, random_checkpoint), checkpoint, silent)
    assert len(HEADS) == len(read_heads(heads).heads)
