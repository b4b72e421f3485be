"""From sound files to shards: held-out speakers, joined words, skipped files, synthetic speech."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from training.batches import load_pool
from training.corpora import (
    SPEED_VARIANTS,
    corpora,
    is_held_out,
    prepare_corpus,
    prepare_noise,
    read_corpus,
    read_tested,
)
from training.features import FRAMES_PER_SECOND, SAMPLE_RATE_HZ, read_audio, read_shard
from training.prepare import prepare
from training.synthesize import make_words_shard, words_shard_name
from training.voice_settings import draw_voice_settings
from training.workplace import Workplace

ENGINES = {
    "hibari": None,
    "joe": None,
    "flite": "flite",
    "festival": "festival",
    "espeak": "espeak-ng",
}
"""Engines, and the programs of those that are not Python packages."""
SPEAKERS = [f"speaker{letter}" for letter in "abcdefghijklmnopqr"]


def write_sound(path: Path, seconds: float, rate_hz: int = SAMPLE_RATE_HZ) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate_hz))
    soundfile.write(path, samples, rate_hz)


def write_corpus(speech: Path, name: str, rows: list[tuple[str, float, str]]) -> None:
    """Rows of speaker, seconds, transcript."""
    lines = ["file\tseconds\tspeaker\ttranscript"]
    for i, (speaker, seconds, transcript) in enumerate(rows):
        write_sound(speech / "train" / name / f"{i}.wav", seconds)
        lines.append(f"{i}.wav\t{seconds}\t{speaker}\t{transcript}")
    (speech / "train" / name / "manifest.tsv").write_text("\n".join(lines) + "\n")


def test_held_out_speakers_are_in_no_training_shard(tmp_path: Path) -> None:
    write_corpus(tmp_path, "books", [(s, 1.0, f"Read by {s}.") for s in SPEAKERS])
    assert corpora(tmp_path) == ["books"]
    prepare_corpus(tmp_path, tmp_path / "features", "books")
    trained = {u.text for u in read_shard(tmp_path / "features" / "real-books.tsv")}
    held_out = {u.text for u in read_shard(tmp_path / "features" / "dev-books.tsv")}
    expected = {s for s in SPEAKERS if is_held_out("books", s)}
    assert 0 < len(expected) < len(SPEAKERS)
    assert held_out == {f"read by {speaker}" for speaker in expected}
    assert trained == {f"read by {speaker}" for speaker in SPEAKERS} - held_out


def test_speakers_of_the_test_sets_are_not_trained_on(tmp_path: Path) -> None:
    """Sets keep a recording in another format, or without the name of its speaker."""
    write_corpus(tmp_path, "books", [(s, 1.0, f"Read by {s}.") for s in ("ann", "ann", "ben")])
    write_tests(tmp_path / "test" / "clean", ["1.mp3", "other.flac"])
    assert [each.speaker for each in read_corpus(tmp_path, "books")] == ["ben"]
    prepare_corpus(tmp_path, tmp_path / "features", "books")
    trained = read_shard(tmp_path / "features" / "real-books.tsv")
    assert [utterance.text for utterance in trained] == ["read by ben"]


def test_recordings_that_are_trained_on_do_not_count_as_tests(tmp_path: Path) -> None:
    write_corpus(tmp_path, "books", [("ann", 1.0, "some words")])
    write_tests(tmp_path / "test" / "clean", ["0.mp3", "other.flac"])
    kept = read_tested(tmp_path / "test" / "clean")
    assert [each.path.name for each in kept] == ["other.flac"]


def write_tests(folder: Path, files: list[str]) -> None:
    folder.mkdir(parents=True)
    lines = ["file\tseconds\ttranscript", *(f"{file}\t1.0\tsome words" for file in files)]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")


def test_few_speakers_are_all_trained_on(tmp_path: Path) -> None:
    write_corpus(tmp_path, "books", [(s, 1.0, "some words") for s in SPEAKERS[:3]])
    prepare_corpus(tmp_path, tmp_path / "features", "books")
    assert not list((tmp_path / "features").glob("dev-*"))


def test_single_words_are_joined_by_speaker(tmp_path: Path) -> None:
    rows = [(s, 0.5, word) for s in ("ann", "ben") for word in ("one", "two", "three")]
    write_corpus(tmp_path, "digits", [*rows, ("ben", 3.0, "a whole sentence")])
    prepare_corpus(tmp_path, tmp_path / "features", "digits")
    utterances = read_shard(tmp_path / "features" / "real-digits.tsv")
    words = [sorted(u.text.split()) for u in utterances if u.text != "a whole sentence"]
    assert sum(map(len, words)) == 6
    assert all(len(set(group)) == len(group) for group in words)
    assert sum(len(u.frames) for u in utterances) == 6 * FRAMES_PER_SECOND


def test_malformed_noise_is_left_out(tmp_path: Path) -> None:
    write_sound(tmp_path / "noise" / "rain.wav", 1.0)
    (tmp_path / "noise" / "broken.ogg").write_bytes(b"no sound")
    prepare_noise(tmp_path, tmp_path / "features")
    assert len(read_shard(tmp_path / "features" / "noise.tsv")) == 1


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_audio_comes_at_one_rate_and_the_speed_asked_for(tmp_path: Path, rate_hz: int) -> None:
    write_sound(tmp_path / "sound.wav", 2.0, rate_hz)
    assert len(read_audio(tmp_path / "sound.wav")) == 2 * SAMPLE_RATE_HZ
    faster = read_audio(tmp_path / "sound.wav", speed=1.25)
    assert len(faster) == pytest.approx(1.6 * SAMPLE_RATE_HZ, abs=2)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_synthesizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    program = ENGINES[engine]
    if program and not shutil.which(program):
        pytest.skip(f"no {program} here")
    monkeypatch.setattr("training.synthesize.UTTERANCES_PER_SHARD", 2)
    monkeypatch.setattr("training.synthesize.ENGINE_SHARE", {engine: 1.0})
    make_words_shard(tmp_path, 0, ["hello world"])
    spoken = read_shard(tmp_path / f"{words_shard_name(0)}.tsv")
    assert len(spoken) == 2
    assert all(0.3 < u.seconds < 3 and u.text in "hello world" for u in spoken)
    assert all(u.frames.max() > u.frames.min() + 5 for u in spoken)


def test_low_voices_belong_to_long_vocal_tracts() -> None:
    rng = random.Random(0)
    settings = [draw_voice_settings("hibari", rng) for _ in range(300)]
    final_pitch = [m.pitch * m.speed for m in settings]
    assert min(final_pitch) < 0.6 < 1.1 < max(final_pitch)
    assert np.corrcoef([m.speed for m in settings], final_pitch)[0, 1] > 0.8


def test_training_corpora_come_at_other_speeds_too(tmp_path: Path) -> None:
    write_corpus(tmp_path, "books", [("ann", 2.0, "some words"), ("ben", 2.0, "more words")])
    prepare_corpus(tmp_path, tmp_path / "features", "books")
    for variant, (low, high) in SPEED_VARIANTS.items():
        for utterance in read_shard(tmp_path / "features" / f"real-books-{variant}.tsv"):
            assert 2.0 / high - 0.02 <= utterance.seconds <= 2.0 / low


def test_prepare_makes_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.prepare.WORDS_SHARDS", 0)
    write_corpus(tmp_path, "books", [(s, 1.0, f"read by {s}") for s in SPEAKERS])
    write_sound(tmp_path / "noise" / "rain.wav", 1.0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    sentences = [a * n + b for a in letters for b in letters for n in (1, 2, 3)]
    (tmp_path / "train" / "text").mkdir()
    (tmp_path / "train" / "text" / "sentences.txt").write_text("\n".join(sentences))
    place = Workplace(tmp_path / "work")
    prepare(tmp_path, place, synthetic_shards=0, jobs=1, committed=None)
    made = {path: path.stat().st_mtime_ns for path in place.folder.rglob("*") if path.is_file()}
    names = {path.name for path in made}
    assert {"real-books.tsv", "dev-books.tsv", "noise.tsv", "tokenizer.json"} <= names
    prepare(tmp_path, place, synthetic_shards=0, jobs=1, committed=None)
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_prepare_names_the_missing_parts_of_a_speech_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="manifest"):
        prepare(tmp_path, Workplace(tmp_path / "work"), 0, jobs=1, committed=None)


def test_pool_leaves_out_what_is_too_fast_to_be_true(tmp_path: Path) -> None:
    features = tmp_path / "features"
    write_corpus(tmp_path, "books", [("a", 1.0, "one two"), ("a", 1.0, "very " * 20)])
    prepare_corpus(tmp_path, features, "books")
    write_sound(tmp_path / "noise" / "rain.wav", 1.0)
    prepare_noise(tmp_path, features)
    assert {u.text for u in load_pool(features).real} == {"one two"}
