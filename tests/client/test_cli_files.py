"""`earshot transcribe` on whole files: recognizers, formats, output and failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import soundfile
from earshot import _recognition
from earshot._cli import app, batch
from typer.testing import CliRunner

from tests.support import fake_recognizer
from tests.support.fake_triton import OFFLINE, FakeTriton, ReceivedPiece, Tokens, fake_triton
from tests.support.spoken_numbers import RATE_HZ, audio, recognize_numbers, script, words


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    """A server with both recognizers: only the offline one returns text."""
    with fake_triton(fake_recognizer.PARAMETERS, models={"asr_offline": OFFLINE}) as fake:
        fake.recognize = recognize_numbers
        fake.answer.set()
        yield fake


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.wav"
    soundfile.write(path, audio(script(65, 20)), RATE_HZ)
    return path


TEXT = " ".join(text for text, _ in words(script(65, 20)))


def transcribe(fake: FakeTriton, *arguments: object):
    command = ["transcribe", *map(str, arguments)]
    return CliRunner().invoke(app, command, env={"EARSHOT_URL": fake.url})


def test_files_go_offline_where_the_server_can(fake: FakeTriton, numbers: Path) -> None:
    result = transcribe(fake, numbers)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{TEXT}\n", "")
    assert len(fake.pieces) == 3
    assert not fake.seen


def test_streaming_is_forced(fake: FakeTriton, numbers: Path) -> None:
    result = transcribe(fake, "--streaming", "--json", numbers)
    report = json.loads(result.stdout)
    assert (report["mode"], report["chunk_ms"], report["text"]) == ("streaming", 80, "")
    assert not fake.pieces
    assert fake.seen


def test_a_file_waits_for_a_server_that_is_saturated(
    fake: FakeTriton, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_RETRY_S", 0.01)
    fake.saturated = 3
    fake.hear = lambda index: [(7, "hello", 0)] if index == 0 else []
    result = transcribe(fake, "--streaming", numbers, numbers)
    assert (result.exit_code, result.stdout.count("hello")) == (0, 2), result.stderr


def test_a_file_does_not_wait_for_ever(
    fake: FakeTriton, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_BUSY_S", 0.0)
    fake.saturated = 1000
    result = transcribe(fake, "--streaming", numbers)
    assert result.exit_code == 1
    assert "this server is saturated" in result.stderr


def test_streaming_needs_a_server_that_streams(numbers: Path) -> None:
    with fake_triton(None, models={"asr_offline": OFFLINE}) as fake:
        fake.recognize = recognize_numbers
        assert transcribe(fake, numbers).stdout == f"{TEXT}\n"
        result = transcribe(fake, "--streaming", numbers)
    assert result.exit_code == 2
    assert "has no model asr_streaming" in result.stderr


def test_json(fake: FakeTriton, numbers: Path) -> None:
    results = [
        json.loads(transcribe(fake, *options, numbers).stdout)
        for options in (["--json"], ["--format", "json"])
    ]
    for report in results:
        assert report.pop("audio_s_per_s") > 0
    assert results[0] == results[1]
    assert results[0]["words"][1] == {
        "word": "1",
        "start_ms": 320,
        "end_ms": 400,
        "confidence": 0.7788,
    }
    assert (results[0]["mode"], results[0]["failed"], results[0]["text"]) == ("offline", [], TEXT)
    assert "chunk_ms" not in results[0]


def test_subtitles(fake: FakeTriton, numbers: Path) -> None:
    srt = transcribe(fake, "--format", "srt", numbers).stdout
    assert srt.startswith("1\n00:00:00,000 --> 00:00:06,1")
    vtt = transcribe(fake, "--format", "vtt", numbers).stdout
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:06.1")
    for text in (srt, vtt):
        shown = [line for line in text.splitlines() if "-->" not in line]
        assert TEXT.split()[-1] in shown[-1].split()


def test_output_goes_to_a_file(fake: FakeTriton, numbers: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "talk.txt"
    result = transcribe(fake, "-o", target, numbers)
    assert (result.exit_code, result.stdout) == (0, "")
    assert target.read_text() == f"{TEXT}\n"


def test_several_files_go_to_a_folder(fake: FakeTriton, numbers: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.flac"
    soundfile.write(other, audio(script(5, None)), RATE_HZ)
    target = tmp_path / "subtitles"
    result = transcribe(fake, "-o", target, "--format", "vtt", numbers, other)
    assert result.exit_code == 0
    assert sorted(path.name for path in target.iterdir()) == ["numbers.wav.vtt", "other.flac.vtt"]
    assert (target / "other.flac.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 -->")


def test_subtitles_of_several_files_are_not_run_together(fake: FakeTriton, numbers: Path) -> None:
    result = transcribe(fake, "--format", "srt", numbers, numbers)
    assert result.exit_code == 2
    assert "--output FOLDER" in result.stderr


def test_the_audio_is_not_written_over(fake: FakeTriton, numbers: Path) -> None:
    before = numbers.read_bytes()
    result = transcribe(fake, "-o", numbers, numbers)
    assert result.exit_code == 2
    assert "is the audio" in result.stderr
    assert numbers.read_bytes() == before


@pytest.mark.parametrize("several", [True, False])
def test_output_that_cannot_be_written(
    fake: FakeTriton, numbers: Path, tmp_path: Path, several: bool
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    target = taken if several else taken / "talk.txt"
    result = transcribe(fake, "-o", target, *[numbers] * (1 + several))
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not fake.pieces, "the work was done before"
    assert taken.read_text() == "a file"


def test_what_fails_is_named_and_the_rest_printed(
    fake: FakeTriton, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_recognition, "FIRST_DELAY_S", 0.01)

    def fail_in_the_middle(piece: ReceivedPiece) -> Tokens:
        tokens = recognize_numbers(piece)
        if "100" in {text.strip() for _, text, _ in tokens}:
            piece.context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")
        return tokens

    fake.recognize = fail_in_the_middle
    result = transcribe(fake, "--json", numbers)
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    [span] = report["failed"]
    assert f"no text from {span['start_s']:.1f} s to {span['end_s']:.1f} s: " in result.stderr
    assert "out of order" in span["reason"]
    recognized_words = report["text"].split()
    assert recognized_words[0] == "0"
    assert "100" not in recognized_words
    assert recognized_words[-1] == TEXT.split()[-1]
