"""Adaptation of a random checkpoint to a few seconds of speech: it resumes, and merges exactly."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile
import torch
from peft import PeftModel
from rich.console import Console
from typer.testing import CliRunner

from tests.support.checkpoints import SPEECH, write_random_checkpoint
from training.adapt.base import load_base
from training.adapt.card import Outcome
from training.adapt.errors import CannotAdapt, Stopped
from training.adapt.merge import merge
from training.adapt.recordings import split
from training.adapt.run import adapt
from training.adapt.settings import Settings, sha256_of
from training.cli import app
from training.evaluate import read_test_set, score
from training.features import Recording

WORDS = ["a b d", "d e", "b a g", "g d", "e a", "a g j", "j d b", "b e", "d g", "g a"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("base") / "base")


def write_recordings(folder: Path, transcripts: Sequence[str]) -> Path:
    samples, rate_hz = soundfile.read(SPEECH, dtype="float32")
    folder.mkdir()
    lines = ["file\ttranscript"]
    for second, transcript in enumerate(transcripts):
        soundfile.write(
            folder / f"{second}.wav", samples[second * rate_hz : (second + 1) * rate_hz], rate_hz
        )
        lines.append(f"{second}.wav\t{transcript}")
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_recordings(tmp_path / "recordings", WORDS)


def run_command(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["adapt", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


class StopAfter(threading.Event):
    """Is set once it was asked so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def is_set(self) -> bool:
        self.times -= 1
        return self.times < 0


class Adapted(NamedTuple):
    """A run that was stopped once, and then published its result."""

    settings: Settings
    stopped: dict[str, float]
    output_when_stopped: bool
    outcome: Outcome


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Adapted:
    folder = tmp_path_factory.mktemp("adapted")
    data = write_recordings(folder / "recordings", WORDS)
    settings = Settings(
        checkpoint, data, folder / "clinic", (data,), rank=2, passes=40, learning_rate=0.5
    )
    with pytest.raises(Stopped, match="the same command"):
        adapt(settings, Console(quiet=True), StopAfter(4))
    state = torch.load(settings.work / "state.pt")
    output_when_stopped = settings.output.exists()
    outcome = adapt(settings, Console(quiet=True), threading.Event())
    return Adapted(settings, state["progress"], output_when_stopped, outcome)


def test_a_stopped_run_goes_on(adapted: Adapted) -> None:
    progress = adapted.outcome.progress
    assert not adapted.output_when_stopped
    assert 0 < adapted.stopped["steps"] < progress.steps
    assert (adapted.stopped["rounds"], progress.rounds) == (1, 2), "a second draw, not the first"


def test_the_result_is_described(adapted: Adapted) -> None:
    output = adapted.settings.output
    figures = json.loads((output / "adaptation.json").read_text())
    held_out = figures["word_error_rates"]["held out"]
    assert held_out["adapted"] < held_out["base"]
    assert set(figures["word_error_rates"]) == {"held out", "recordings"}
    card = (output / "README.md").read_text()
    assert "--passes 40" in card
    assert f"| `held out` | {held_out['words']} | {held_out['base']:.1%} |" in card


def test_only_the_adapter_is_trained(adapted: Adapted, checkpoint: Path) -> None:
    before = load_base(checkpoint).model.state_dict()
    after: dict[str, torch.Tensor] = torch.load(adapted.settings.work / "state.pt")["model"]
    for name, weight in after.items():
        if "lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")]), name


def test_the_merged_checkpoint_is_base_and_adapter(adapted: Adapted, checkpoint: Path) -> None:
    output = adapted.settings.output
    mel = torch.from_numpy(read_test_set(adapted.settings.data)[0].frames).float()[None]
    labels = torch.tensor([[5, 6, 7]])

    def logits(model: Any) -> torch.Tensor:
        with torch.inference_mode():
            encoded = model.get_audio_features(mel).pooler_output[:, :, None]
            return model.joint.head(
                model.joint.activation(encoded + model.decoder(labels)[:, None])
            )

    base: Any = load_base(checkpoint).model
    of_base, merged = logits(base), logits(load_base(output).model)
    together = logits(PeftModel.from_pretrained(base, str(output / "adapter")).get_base_model())
    effect = (together - of_base).abs().max()
    assert effect > 1
    assert (merged - together).abs().max() < 0.01 * effect, "more than half precision rounds"


def test_merging_the_adapter_alone_gives_the_published_weights(
    tmp_path: Path, adapted: Adapted, checkpoint: Path
) -> None:
    published = adapted.settings.output
    arguments = ["merge", str(checkpoint), str(published / "adapter"), "--output"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    weights = "model.safetensors"
    assert sha256_of(tmp_path / "merged" / weights) == sha256_of(published / weights)

    other = write_random_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(CannotAdapt, match="trained on weights with sha256"):
        merge(other, published / "adapter", tmp_path / "wrong")
    with pytest.raises(CannotAdapt, match="expected an adapter"):
        merge(checkpoint, tmp_path / "merged", tmp_path / "wrong")


def test_all_weights_can_be_trained(tmp_path: Path, checkpoint: Path, recordings: Path) -> None:
    output = tmp_path / "clinic"
    settings = Settings(checkpoint, recordings, output, full=True, passes=20, learning_rate=1.0)
    outcome = adapt(settings, Console(quiet=True), threading.Event())
    assert outcome.progress.steps > 0
    assert not (output / "adapter").exists()
    before, after = (load_base(c).model.state_dict() for c in (checkpoint, output))
    assert not torch.equal(before["decoder.lstm.weight_hh_l0"], after["decoder.lstm.weight_hh_l0"])


def test_a_result_that_is_not_better_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    base = load_base(checkpoint)
    spoken = read_test_set(write_recordings(tmp_path / "heard", WORDS))
    texts = [
        text or "a"
        for _, text in score("", base.model, base.tokenizer, spoken, base.lookahead).transcripts
    ]
    recordings = write_recordings(tmp_path / "recordings", texts)
    output = tmp_path / "clinic"
    code, words = run_command(
        checkpoint, "--data", recordings, "--output", output, "--passes", 20, "--learning-rate", 3
    )
    assert code == 1
    assert "not published: the WER on held-out recordings is" in words
    assert "0.0% before" in words
    assert not output.exists()


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "there is no such file"),
        (b"", "expected the tab-separated columns file and transcript"),
        (b"file,transcript\n0.wav,a b\n", "expected the tab-separated columns file and transcript"),
        (b"file\ttranscript\n0.wav\ta\tb\n", "line 2: expected 2 columns"),
        (b"file\ttranscript\nlost.wav\ta b\n", "names 1 files that do not exist"),
        (b"file\ttranscript\n0.wav\t12\n", "without a word in letters a to z"),
        (b"file\ttranscript\n0.wav\ta b\n", "at least two sentences"),
        (b"file\ttranscript\n0.wav\t\xff\xfe\n", "as UTF-8 text"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_in_words(
    tmp_path: Path, checkpoint: Path, recordings: Path, manifest: bytes | None, words: str
) -> None:
    if manifest is None:
        (recordings / "manifest.tsv").unlink()
    else:
        (recordings / "manifest.tsv").write_bytes(manifest)
    code, said = run_command(checkpoint, "--data", recordings, "--output", tmp_path / "clinic")
    assert code == 2
    assert words in said
    assert "Traceback" not in said


def test_a_file_that_is_no_sound_is_named(
    tmp_path: Path, checkpoint: Path, recordings: Path
) -> None:
    (recordings / "3.wav").write_bytes(b"no sound")
    code, said = run_command(checkpoint, "--data", recordings, "--output", tmp_path / "clinic")
    assert code == 2
    assert "3.wav" in said.replace(" ", "")


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path, recordings: Path) -> None:
    code, said = run_command(recordings, "--data", recordings, "--output", tmp_path / "clinic")
    assert code == 2
    assert "expected a folder with config.json and model.safetensors" in said


def test_a_folder_with_a_result_or_another_run_is_refused(
    tmp_path: Path, checkpoint: Path, recordings: Path
) -> None:
    settings = Settings(checkpoint, recordings, tmp_path / "clinic")
    settings.claim()
    settings.claim()
    with pytest.raises(CannotAdapt, match="other recordings, weights or options"):
        Settings(checkpoint, recordings, tmp_path / "clinic", passes=3).claim()
    settings.output.mkdir()
    with pytest.raises(CannotAdapt, match="must not change in place"):
        settings.claim()


def test_speakers_are_held_out_where_they_are_named() -> None:
    named = [Recording(Path(f"{i}.wav"), f"speaker {i % 20}", "a b") for i in range(100)]
    parts = split(named)
    assert parts.by_speaker
    assert len(parts.held_out) == 10
    assert not {r.speaker for r in parts.held_out} & {r.speaker for r in parts.trained}


def test_without_speakers_a_held_out_sentence_is_not_trained_on() -> None:
    unnamed = [Recording(Path(f"{i}.wav"), "", f"sentence {'abcdefghi'[i % 9]}") for i in range(90)]
    parts = split(unnamed)
    assert not parts.by_speaker
    assert len(parts.held_out) == 10
    assert not {r.text for r in parts.held_out} & {r.text for r in parts.trained}
