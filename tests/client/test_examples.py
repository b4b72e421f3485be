"""The programs in examples/ run, and print what the server answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.fake_recognizer import RATE_HZ, FakeRecognizer, expected_words, noise
from tests.support.fake_triton import OFFLINE, fake_triton
from tests.support.late_text import without_lag
from tests.support.spoken_numbers import audio, recognize_numbers, script, words

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str, *arguments: object, url: str) -> str:
    """Return what an example prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, *map(str, arguments)],
        env={**os.environ, "EARSHOT_URL": url},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, without_lag(done.stderr)) == (0, "")
    return done.stdout


@pytest.fixture
def second(tmp_path: Path) -> Path:
    path = tmp_path / "second.flac"
    soundfile.write(path, noise(RATE_HZ), RATE_HZ)
    return path


def answers(path: Path) -> list[str]:
    return expected_words(soundfile.read(path, dtype="float32")[0])


def test_each_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "asyncio_live.py",
        "file.py",
        "live_microphone.py",
    }


def test_file_with_an_offline_recognizer(tmp_path: Path) -> None:
    path = tmp_path / "talk.flac"
    soundfile.write(path, audio(script(5, None)), RATE_HZ)
    with fake_triton(None, models={"asr_offline": OFFLINE}) as fake:
        fake.recognize = recognize_numbers
        first, *lines = run("file.py", path, url=fake.url).splitlines()
    expected = words(script(5, None))
    assert first == f"{path}: {' '.join(text for text, _ in expected)}"
    assert [line.split()[-1] for line in lines] == [text for text, _ in expected]


def test_file_that_is_missing(tmp_path: Path) -> None:
    with fake_triton(None, models={"asr_offline": OFFLINE}) as fake:
        done = subprocess.run(
            [sys.executable, EXAMPLES / "file.py", tmp_path / "none.wav"],
            env={**os.environ, "EARSHOT_URL": fake.url},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.endswith("none.wav: no such file\n")


@pytest.mark.triton
def test_file_on_a_server_that_only_streams(server: FakeRecognizer, second: Path) -> None:
    first, *lines = run("file.py", second, url=server.url).splitlines()
    assert first == f"{second}: {' '.join(answers(second))}"
    assert [line.split()[-1] for line in lines] == answers(second)


@pytest.mark.triton
def test_live_microphone_with_a_file(server: FakeRecognizer, second: Path) -> None:
    printed = run("live_microphone.py", "--input", second, url=server.url)
    assert printed == " ".join(answers(second)) + "\n"


@pytest.mark.triton
def test_asyncio_live(server: FakeRecognizer, second: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.flac"
    soundfile.write(other, noise(RATE_HZ // 2, seed=1), RATE_HZ)
    lines = run("asyncio_live.py", second, other, url=server.url).splitlines()
    for path in (second, other):
        own = [line.removeprefix(f"{path}: ") for line in lines if line.startswith(f"{path}: ")]
        assert [line.split()[-1] for line in own[:-1]] == answers(path)
        assert own[-1] == " ".join(answers(path))


@pytest.mark.triton
def test_live_microphone_until_ctrl_c(server: FakeRecognizer, tmp_path: Path) -> None:
    """With a fake `sounddevice` that records half a second: the test machine has no microphone."""
    (tmp_path / "sounddevice.py").write_text(
        textwrap.dedent("""
            import contextlib

            @contextlib.contextmanager
            def RawInputStream(samplerate, channels, dtype, callback):
                assert (samplerate, channels, dtype) == (16000, 1, "int16")
                for _ in range(5):
                    callback(bytearray(3200), 1600, None, None)
                yield
        """)
    )
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "live_microphone.py"],
        env={**os.environ, "EARSHOT_URL": server.url, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    expected = expected_words(np.zeros(8000, np.float32))
    before = " ".join(expected[:-1])  # the last chunk waits for the end
    assert process.stdout.read(len(before)) == before
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=300)
    assert (process.returncode, before + rest) == (0, " ".join(expected) + "\n")
