"""Training of heads on a random checkpoint: what is published, what is refused, and the files."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.support.checkpoints import SPEECH
from training.adapt.settings import sha256_of
from training.cli import app
from training.head.examples import questions_of, read_examples
from training.head.files import DESCRIPTION, WEIGHTS
from training.head.model import Heads

RECORDINGS = 40


def write_recordings(folder: Path, labels: Sequence[str], column: str = "sound") -> Path:
    """Write a second of speech or of noise for each label: `noise` is told apart easily."""
    samples, rate_hz = soundfile.read(SPEECH, dtype="float32")
    random = np.random.default_rng(0)
    folder.mkdir()
    lines = [f"file\tspeaker\t{column}"]
    for index, label in enumerate(labels):
        start = 1000 * index
        piece = samples[start : start + rate_hz]
        if "noise" in label:
            piece = random.normal(0, 0.1, rate_hz).astype(np.float32)
        soundfile.write(folder / f"{index}.wav", piece, rate_hz)
        lines.append(f"{index}.wav\ts{index % 20}\t{label}")
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


def run_command(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["head", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


SOUNDS = ["speech", "noise", "speech"] * (RECORDINGS // 3)


def test_a_head_that_tells_speech_from_noise_is_published(
    tmp_path: Path, random_checkpoint: Path
) -> None:
    data = write_recordings(tmp_path / "data", SOUNDS)
    output = tmp_path / "sounds"
    code, said = run_command(
        random_checkpoint, "--data", data, "--label", "sound", "--test", data, "--output", output
    )
    assert code == 0, said
    figures = json.loads((output / "figures.json").read_text())
    held_out = figures["held out"]["sound"]
    assert held_out["accuracy"] > held_out["majority"]
    assert figures["data"]["sound"]["recordings"] == len(SOUNDS)
    description = json.loads((output / DESCRIPTION).read_text())
    assert description["heads"] == [{"name": "sound", "labels": ["noise", "speech"]}]
    assert description["base_sha256"] == sha256_of(random_checkpoint / "model.safetensors")
    weights = load_file(output / WEIGHTS)
    assert set(weights) == {"sound.query", "sound.query_bias", "sound.weight", "sound.bias"}
    card = (output / "README.md").read_text()
    assert f"| `sound` | 2 | {held_out['majority']:.1%} | {held_out['accuracy']:.1%} |" in card
    assert "no speaker of them is held out" in card
    assert (output / "confusion.svg").read_text().count("</svg>") == 1


def test_frames_are_computed_once(tmp_path: Path, random_checkpoint: Path) -> None:
    data = write_recordings(tmp_path / "data", SOUNDS)
    arguments = (random_checkpoint, "--data", data, "--label", "sound")
    output = tmp_path / "sounds"
    code, said = run_command(*arguments, "--output", output)
    assert code == 0, said
    work = output.with_name("sounds.work")
    kept = {path: path.stat().st_mtime_ns for path in work.glob("frames-*")}
    assert len(kept) == 2
    shutil.rmtree(output)
    code, said = run_command(*arguments, "--output", output)
    assert code == 0, said
    assert {path: path.stat().st_mtime_ns for path in work.glob("frames-*")} == kept


def test_variants_of_recordings_are_trained_on_as_well(
    tmp_path: Path, random_checkpoint: Path
) -> None:
    data = write_recordings(tmp_path / "data", SOUNDS)
    output = tmp_path / "sounds"
    code, said = run_command(
        random_checkpoint, "--data", data, "--label", "sound", "--variants", 2, "--output", output
    )
    assert code == 0, said
    assert "| variants | 2 of each" in (output / "README.md").read_text()
    kept = [load_file(path) for path in output.with_name("sounds.work").glob("frames-*")]
    largest = max(len(frames["counts"]) for frames in kept)
    trained = [frames["frames"] for frames in kept if len(frames["counts"]) == largest]
    assert len(trained) == 3
    assert trained[0].shape == trained[1].shape
    assert not torch.equal(trained[0], trained[1])


def test_a_head_no_better_than_the_majority_is_refused(
    tmp_path: Path, random_checkpoint: Path
) -> None:
    by_chance = np.random.default_rng(1).choice(["yes", "no", "no"], RECORDINGS).tolist()
    data = write_recordings(tmp_path / "data", by_chance)
    output = tmp_path / "chance"
    code, said = run_command(
        random_checkpoint, "--data", data, "--label", "sound", "--passes", 1, "--output", output
    )
    assert code == 1
    assert "these heads get no more right than the most frequent label would: sound" in said
    assert not output.exists()
    assert (tmp_path / "chance.work" / "candidate" / DESCRIPTION).is_file()


def test_values_that_do_not_exclude_each_other_are_heads_of_their_own(tmp_path: Path) -> None:
    cells = ["noise|loud", "speech", "loud | speech", ""]
    data = write_recordings(tmp_path / "data", cells)
    examples = read_examples(data, ["sound"])
    questions = questions_of(examples, ["sound"])
    assert [(question.name, question.labels) for question in questions] == [
        ("sound=loud", ("no", "yes")),
        ("sound=noise", ("no", "yes")),
        ("sound=speech", ("no", "yes")),
    ]
    assert examples.answers(questions).tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0]]


def test_the_files_hold_the_network_without_its_normalization() -> None:
    torch.manual_seed(0)
    heads = Heads(6, [3], queries=2).eval()
    heads.normalize_by(torch.randn(50, 6) * 3 + 1)
    frames = torch.randn(1, 9, 6) * 3 + 1
    with torch.inference_mode():
        [logits] = heads(frames, torch.tensor([9]))
        tensors = heads.tensors(["a"])
        scores = 15 * torch.tanh((frames[0] @ tensors["a.query"].T + tensors["a.query_bias"]) / 15)
        pooled = scores.softmax(dim=0).T @ frames[0]
        expected = (tensors["a.weight"] * pooled).sum(dim=(1, 2)) + tensors["a.bias"]
    assert torch.allclose(logits[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "column", "words"),
    [
        (["a", "b"], "other", "expected the tab-separated columns file and sound"),
        (["a", "a"], "sound", "at least two values in column sound"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_words(
    tmp_path: Path, random_checkpoint: Path, labels: list[str], column: str, words: str
) -> None:
    data = write_recordings(tmp_path / "data", labels, column)
    code, said = run_command(
        random_checkpoint, "--data", data, "--label", "sound", "--output", tmp_path / "out"
    )
    assert code == 2
    assert words in said
    assert not (tmp_path / "out").exists()
