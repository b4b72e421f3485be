"""The command `earshot`: usage without a server, the rest against a real Triton."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
from earshot._audio_file import AudioFile
from earshot._cli import app, microphone
from earshot._files import open_audio
from earshot._format import AudioFormat
from typer.testing import CliRunner

from tests.support import fake_recognizer
from tests.support.fake_recognizer import RATE_HZ, FakeRecognizer, noise
from tests.support.fake_triton import fake_triton
from tests.support.late_text import without_lag
from tests.support.launcher import wait_for

COMMAND = [str(Path(sys.executable).with_name("earshot"))]


def command_with(timeouts: str) -> list[str]:
    """Return the command with other deadlines than its own."""
    return [
        sys.executable,
        "-c",
        "from functools import partial\n"
        "from earshot._cli import app, server_options\n"
        f"server_options.Timeouts = partial(server_options.Timeouts, {timeouts})\n"
        "app()",
    ]


def earshot(*arguments: object, url: str = "localhost:1"):
    return CliRunner().invoke(
        app, [str(argument) for argument in arguments], env={"EARSHOT_URL": url}
    )


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, noise(20000), RATE_HZ)
    return path


def words_in(path: Path) -> list[str]:
    return fake_recognizer.expected_words(soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize(
    "command", [[], ["transcribe"], ["info"], ["models"], ["models", "retire"]]
)
def test_help(command: list[str]) -> None:
    shown = earshot(*command, "--help")
    assert shown.exit_code == 0
    assert "Usage" in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["transcribe"],
        ["transcribe", "--jobs", "0", "a.wav"],
        ["info", "--url", "http://localhost:8000"],
        ["info", "--root-certificates", "/no/such/file"],
        ["sing"],
        ["transcribe", "--json", "--format", "srt", "a.wav"],
        ["transcribe", "--format", "docx", "a.wav"],
        ["transcribe", "--endpoint-ms", "20", "a.wav"],
        ["transcribe", "-o", "folder", "one/a.wav", "two/a.wav"],
        ["models", "--json", "load", "clinic"],
        ["info", "--url", ":99999"],
        ["info", "--url", "localhost:99999"],
        ["transcribe", "--channel", "1", "--split-channels", "a.wav"],
        ["transcribe", "--channel", "0", "a.wav"],
        ["transcribe", "--split-channels", "-"],
        ["transcribe", "--split-channels", "--format", "srt", "a.wav"],
        ["transcribe", "--sample-rate-hz", "8000", "a.raw"],
        ["transcribe", "--encoding", "mulaw", "--sample-rate-hz", "1", "a.raw"],
        ["transcribe", "--encoding", "mulaw", "--channels", "0", "a.raw"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert earshot(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [["info"], ["transcribe", "a.wav"], ["models"]])
def test_no_server(arguments: list[str]) -> None:
    result = earshot(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "earshot: no server at localhost:1:" in result.stderr
    assert "--url or EARSHOT_URL" in result.stderr


@pytest.mark.triton
def test_text_of_one_file(server: FakeRecognizer, speech: Path) -> None:
    result = earshot("transcribe", speech, url=server.url)
    assert result.exit_code == 0
    assert result.stdout == " ".join(words_in(speech)) + "\n"
    assert without_lag(result.stderr) == ""


@pytest.mark.triton
def test_json(server: FakeRecognizer, speech: Path) -> None:
    result = earshot("transcribe", "--json", speech, url=server.url)
    report = json.loads(result.stdout)
    assert report["file"] == str(speech)
    assert report["text"].split() == [word["word"] for word in report["words"]]
    assert report["words"][1] == {
        "word": words_in(speech)[1],
        "start_ms": 80,
        "end_ms": 160,
        "confidence": 0.3679,
    }
    assert report["duration_s"] == 1.25
    assert report["audio_s_per_s"] > 0
    assert (report["model"], report["chunk_ms"]) == ("fake", 80)


@pytest.mark.triton
def test_one_utterance_a_line(server: FakeRecognizer, tmp_path: Path) -> None:
    pause = np.zeros(RATE_HZ, np.float32)
    spoken = noise(RATE_HZ) * np.linspace(0.01, 1, RATE_HZ)
    path = tmp_path / "two.wav"
    soundfile.write(path, np.concatenate([pause, spoken, pause, spoken]), RATE_HZ)
    result = earshot("transcribe", "--endpoint-ms", 500, path, url=server.url)
    report = json.loads(
        earshot("transcribe", "--endpoint-ms", 500, "--json", path, url=server.url).stdout
    )
    first, second = report["utterances"]
    assert result.stdout == f"{first['text']}\n{second['text']}\n"
    assert [first["end_ms"], second["end_ms"]] == [2000, 4000]
    assert first["words"] + second["words"] == report["words"]


@pytest.mark.triton
def test_unreadable_files_do_not_stop_the_rest(
    server: FakeRecognizer, speech: Path, tmp_path: Path
) -> None:
    text, empty, missing = (tmp_path / name for name in ("text.wav", "empty.wav", "missing.wav"))
    text.write_text("no audio")
    soundfile.write(empty, np.zeros(0, np.float32), RATE_HZ)
    result = earshot("transcribe", text, speech, empty, missing, speech, url=server.url)
    assert result.exit_code == 1
    assert result.stdout == f"{speech}: {' '.join(words_in(speech))}\n" * 2
    messages = without_lag(result.stderr).splitlines()
    assert [line.split(": ")[1] for line in messages] == [str(p) for p in (text, empty, missing)]
    assert messages[2] == f"earshot: {missing}: no such file"


@pytest.mark.triton
def test_file_names_that_are_not_valid_utf8(server: FakeRecognizer, speech: Path) -> None:
    odd = speech.rename(speech.with_name(os.fsdecode(b"caf\xe9.wav")))
    missing = speech.with_name(os.fsdecode(b"\xe9.wav"))
    for options in ([], ["--json"]):
        result = subprocess.run(
            [*COMMAND, "transcribe", *options, "--url", server.url, odd, missing],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        assert "caf\N{REPLACEMENT CHARACTER}.wav" in result.stdout
        assert " ".join(words_in_odd(odd)) in result.stdout
        assert without_lag(result.stderr).endswith("\N{REPLACEMENT CHARACTER}.wav: no such file\n")


def words_in_odd(path: Path) -> list[str]:
    with path.open("rb") as file:
        return fake_recognizer.expected_words(soundfile.read(file, dtype="float32")[0])


@pytest.mark.triton
def test_an_unexpected_error_in_one_file_leaves_the_others(
    server: FakeRecognizer, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_or_fail(path: Path, form: AudioFormat | None) -> AbstractContextManager[AudioFile]:
        if path.name == "bad.wav":
            raise RuntimeError("unexpected")
        return open_audio(path, form)

    monkeypatch.setattr("earshot._cli.batch.open_audio", open_or_fail)
    bad = tmp_path / "bad.wav"
    result = earshot("transcribe", bad, speech, url=server.url)
    assert result.exit_code == 1
    assert result.stdout == f"{speech}: {' '.join(words_in(speech))}\n"
    assert without_lag(result.stderr) == f"earshot: {bad}: RuntimeError: unexpected\n"


@pytest.mark.triton
def test_a_truncated_wav(server: FakeRecognizer, speech: Path) -> None:
    speech.write_bytes(speech.read_bytes()[:20000])
    result = earshot("transcribe", speech, url=server.url)
    assert result.exit_code == 0
    assert result.stdout == " ".join(words_in(speech)) + "\n"
    assert without_lag(result.stderr) == (
        f"earshot: {speech}: the file is truncated: its header states more audio\n"
    )


@pytest.mark.triton
def test_what_was_recognized_before_an_error_is_shown(
    server: FakeRecognizer, tmp_path: Path
) -> None:
    path = tmp_path / "half.wav"
    audio = noise(5 * fake_recognizer.CHUNK_SAMPLES)
    audio[-1] = fake_recognizer.FAIL
    soundfile.write(path, audio, RATE_HZ, subtype="FLOAT")
    result = earshot("transcribe", path, url=server.url)
    assert result.exit_code == 1
    assert result.stdout == ""
    recognized = " ".join(fake_recognizer.expected_words(audio)[:-1])
    assert f"half.wav: recognized before that: {recognized}\n" in result.stderr


@pytest.mark.triton
def test_many_files_come_in_order(server: FakeRecognizer, tmp_path: Path) -> None:
    paths = [tmp_path / f"{seconds}.wav" for seconds in (3, 1, 2)]
    for path in paths:
        soundfile.write(path, noise(int(path.stem) * RATE_HZ), RATE_HZ)
    result = earshot("transcribe", *paths, "--jobs", 2, url=server.url)
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == list(map(str, paths))


class FakeSoundDevice(ModuleType):
    """Records five pieces, then presses Ctrl-C: the test machine has no microphone."""

    PortAudioError = RuntimeError

    def __init__(self, server: FakeRecognizer) -> None:
        """Press it when `server` has received the first chunk."""
        super().__init__("sounddevice")
        self._server = server.from_now_on()

    def query_devices(self, kind: str) -> dict[str, float]:
        assert kind == "input"
        return {"default_samplerate": 48000.0}

    @contextmanager
    def RawInputStream(
        self, samplerate: float, channels: int, dtype: str, callback: Callable[..., None]
    ) -> Iterator[None]:
        assert (samplerate, channels, dtype) == (48000, 1, "int16")
        for _ in range(5):
            callback(bytearray(9600), 4800, None, SimpleNamespace(input_overflow=True))
        threading.Thread(target=self._interrupt).start()
        yield

    def _interrupt(self) -> None:
        wait_for(lambda: bool(self._server.chunks()))
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.triton
def test_mic(server: FakeRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microphone, "SILENCE_S", 60)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundDevice(server))
    result = earshot("mic", url=server.url)
    assert result.exit_code == 0
    assert (
        result.stdout == " ".join(fake_recognizer.expected_words(np.zeros(8000, np.float32))) + "\n"
    )
    told = without_lag(result.stderr)
    assert told == "earshot: the machine was too slow 5 times, and audio was lost\n"
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundDevice(server))
    lines = earshot("mic", "--endpoint-ms", 500, url=server.url).stdout
    assert lines == result.stdout, "text without speech, as loud as it may be, is an utterance"


@pytest.mark.triton
def test_mic_without_sounddevice(server: FakeRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = earshot("mic", url=server.url)
    assert result.exit_code == 1
    assert "pip install './client[mic]'" in result.stderr


@pytest.mark.triton
def test_info(server: FakeRecognizer) -> None:
    shown = dict(
        line.split(maxsplit=1) for line in earshot("info", url=server.url).stdout.splitlines()
    )
    assert shown["url"] == server.url
    assert shown["model"] == "fake"
    assert shown["ready"] == "True"
    as_json = json.loads(earshot("info", "--json", url=server.url).stdout)
    assert {name: str(value) for name, value in as_json.items()} == shown
    assert (as_json["streaming"], as_json["offline"]) == (True, False)


@pytest.mark.triton
def test_a_terminal_gets_a_progress_bar_and_stdout_stays_clean(
    server: FakeRecognizer, speech: Path
) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    result = subprocess.run(
        [*COMMAND, "transcribe", "--url", server.url, speech],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
        text=True,
    )
    os.close(theirs)
    assert result.stdout == " ".join(words_in(speech)) + "\n"
    assert "speech.wav" in os.read(ours, 10000).decode()
    os.close(ours)


@pytest.mark.triton
def test_ctrl_c_ends_the_stream(server: FakeRecognizer, tmp_path: Path) -> None:
    path = tmp_path / "slow.wav"
    audio = noise(20 * fake_recognizer.CHUNK_SAMPLES)
    audio[:: fake_recognizer.CHUNK_SAMPLES] = fake_recognizer.SLOW
    soundfile.write(path, audio, RATE_HZ, subtype="FLOAT")
    before = len(server.chunks())
    command = subprocess.Popen(
        [*command_with("close_s=60"), "transcribe", "--url", server.url, path],
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(server.chunks()) == before:
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    _, message = command.communicate(timeout=300)
    assert command.returncode == 130
    assert without_lag(message) == "earshot: interrupted\n"
    assert server.chunks()[-1].end


def test_ctrl_c_while_the_server_hangs(speech: Path) -> None:
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        command = subprocess.Popen(
            [*command_with("chunk_s=600"), "transcribe", "--url", fake.url, speech],
            stderr=subprocess.PIPE,
            text=True,
        )
        fake.arrived.acquire()
        command.send_signal(signal.SIGINT)
        _, message = command.communicate(timeout=300)  # the chunk has 600 s, close_s is 1 s
    assert command.returncode == 130
    assert message == "earshot: interrupted\n"
