"""`earshot transcribe` on what is no plain file: pipes, raw audio, single channels, odd outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from earshot._cli import app
from typer.testing import CliRunner

from tests.support.fake_triton import OFFLINE, FakeTriton, ReceivedPiece, Tokens, fake_triton
from tests.support.spoken_numbers import RATE_HZ, audio, recognize_numbers, script, words

SCRIPT = script(4, None)
TEXT = " ".join(text for text, _ in words(SCRIPT))
SPEECH = audio(SCRIPT)
COMMAND = [str(Path(sys.executable).with_name("earshot")), "transcribe"]


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with fake_triton(None, models={"asr_offline": OFFLINE}) as fake:
        fake.recognize = recognize_numbers
        yield fake


@pytest.fixture
def flac(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.flac"
    soundfile.write(path, SPEECH, RATE_HZ)
    return path


def transcribe(fake: FakeTriton, *arguments: object):
    command = ["transcribe", *map(str, arguments)]
    return CliRunner().invoke(app, command, env={"EARSHOT_URL": fake.url})


def run(fake: FakeTriton, *arguments: object, **options: object):
    return subprocess.run(
        [*COMMAND, "--url", fake.url, *map(str, arguments)],
        stderr=subprocess.PIPE,
        **{"stdout": subprocess.PIPE, "text": True, **options},  # pyright: ignore
    )


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("piped", [True, False])
def test_standard_input(fake: FakeTriton, flac: Path, name: str, piped: bool) -> None:
    with flac.open("rb") as file:
        given = {"input": file.read()} if piped else {"stdin": file}
        result = run(fake, name, text=False, **given)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{TEXT}\n".encode(), b"")


def test_empty_standard_input(fake: FakeTriton) -> None:
    result = run(fake, "-", stdin=subprocess.DEVNULL)
    assert (result.returncode, result.stderr) == (1, "earshot: stdin: is empty\n")


def test_the_transcript_of_standard_input_goes_to_a_folder(
    fake: FakeTriton, flac: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    result = run(fake, "-", flac, "-o", folder, input=flac.read_bytes(), text=False)
    assert result.returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["numbers.flac.txt", "stdin.txt"]


def test_audio_without_header(fake: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "call.raw"
    path.write_bytes((SPEECH * 32767).astype("<i2").tobytes())
    options = ["--encoding", "linear16", "--sample-rate-hz", RATE_HZ]
    assert transcribe(fake, *options, path).stdout == f"{TEXT}\n"
    lost = transcribe(fake, path)
    assert (lost.exit_code, lost.stdout) == (1, "")
    assert "--encoding mulaw --sample-rate-hz 8000" in lost.stderr


def heard(piece: ReceivedPiece) -> Tokens:
    """Return a word for the level of a piece."""
    return [(1, f"{np.sqrt(np.mean(piece.samples**2)):.1f}", 0)]


@pytest.fixture
def stereo(fake: FakeTriton, tmp_path: Path) -> Path:
    fake.recognize = heard
    path = tmp_path / "call.wav"
    tone = np.sin(np.arange(RATE_HZ) / 5).astype(np.float32)
    soundfile.write(path, np.stack([0.3 * tone, -0.6 * tone], axis=1), RATE_HZ, subtype="FLOAT")
    return path


def test_a_channel_is_chosen(fake: FakeTriton, stereo: Path) -> None:
    assert transcribe(fake, stereo).stdout == "0.1\n"
    assert transcribe(fake, "--channel", 2, stereo).stdout == "0.4\n"
    result = transcribe(fake, "--channel", 3, stereo)
    assert result.exit_code == 1
    assert "a channel from 1 to 2, which the audio has, got 3" in result.stderr


def test_channels_are_kept_apart(fake: FakeTriton, stereo: Path, tmp_path: Path) -> None:
    result = transcribe(fake, "--split-channels", stereo)
    assert result.stdout == f"{stereo} (channel 1): 0.2\n{stereo} (channel 2): 0.4\n"
    lines = transcribe(fake, "--split-channels", "--json", stereo).stdout.splitlines()
    assert [(json.loads(line)["channel"], json.loads(line)["text"]) for line in lines] == [
        (1, "0.2"),
        (2, "0.4"),
    ]
    folder = tmp_path / "texts"
    assert transcribe(fake, "--split-channels", "-o", folder, stereo).exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["call.wav.1.txt", "call.wav.2.txt"]


def test_channels_that_cancel_each_other_are_reported(fake: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "inverted.wav"
    soundfile.write(path, np.stack([SPEECH, -SPEECH], axis=1), RATE_HZ)
    result = transcribe(fake, "--json", path)
    assert result.exit_code == 0
    [warning] = json.loads(result.stdout)["warnings"]
    assert warning in result.stderr
    assert "cancel each other" in warning
    assert "--channel" in warning
    assert transcribe(fake, "--channel", 1, path).stdout == f"{TEXT}\n"


def test_a_damaged_span_fails_and_the_rest_is_printed(fake: FakeTriton, flac: Path) -> None:
    damaged = bytearray(flac.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 20] = bytes(20)
    flac.write_bytes(damaged)
    result = transcribe(fake, flac)
    assert result.exit_code == 1
    assert "the file is damaged there" in result.stderr
    recognized = result.stdout.split()
    assert (recognized[0], recognized[-1]) == (TEXT.split()[0], TEXT.split()[-1])


def test_a_sample_that_is_not_finite_is_named_by_its_place_in_the_file(
    fake: FakeTriton, tmp_path: Path
) -> None:
    path = tmp_path / "nan.wav"
    samples = SPEECH.copy()
    samples[20000] = np.nan
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    result = transcribe(fake, path)
    assert result.exit_code == 1
    assert f"{path}: sample 20000, at 1.250 s, is nan: audio must be finite" in result.stderr
    before = f"recognized before that: {' '.join(TEXT.split()[:3])}"
    assert before in result.stderr


def test_characters_that_the_output_lacks_are_escaped(fake: FakeTriton, flac: Path) -> None:
    fake.recognize = lambda piece: [(1, "漢 café", 0)]
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"}
    for options, expected in ([], "\\u6f22 café"), (["--json"], '"text": "\\u6f22 café"'):
        result = run(fake, *options, flac, flac, env=environment, text=False)
        assert (result.returncode, result.stderr) == (0, b"")
        lines = result.stdout.decode("cp1252").splitlines()
        assert len(lines) == 2
        assert all(expected in line for line in lines)


def test_an_output_without_room(fake: FakeTriton, flac: Path) -> None:
    with open("/dev/full", "w") as full:
        result = run(fake, flac, flac, stdout=full)
    assert result.returncode == 2
    assert result.stderr == "earshot: cannot write to standard output: No space left on device\n"
