"""A server is taken away from live streams behind the deployed Envoy, as on a cluster."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from earshot import Transcript, Word

from loadtest.resuming.document import ResumingResult
from loadtest.resuming.words import Words, compare
from server.errors import TritonDied
from server.launch import Triton, running
from tests.support.envoy import envoy
from tests.support.fake_recognizer import RATE_HZ, noise, write_repository
from tests.support.project import PROJECT

STREAM_S = 8


@contextlib.contextmanager
def service(folder: Path) -> Iterator[tuple[str, Triton]]:
    """An Envoy before two toy servers, and one of these, which may die."""
    with contextlib.ExitStack() as stack:
        survivor = stack.enter_context(running(_repository(folder, "survivor")))
        stack.enter_context(contextlib.suppress(TritonDied))
        dying = stack.enter_context(running(_repository(folder, "dying")))
        replicas = [survivor.grpc_url, dying.grpc_url]
        yield stack.enter_context(envoy(folder, replicas)).url, dying


def _repository(folder: Path, name: str) -> Path:
    return write_repository(folder / name, folder / f"{name}.log")


def run(folder: Path, url: str, *command: str) -> subprocess.CompletedProcess[str]:
    speech = folder / "speech"
    speech.mkdir(exist_ok=True)
    soundfile.write(speech / "noise.wav", noise(STREAM_S * RATE_HZ), RATE_HZ)
    options = ["--url", url, "--streams", "8", "--stream-s", str(STREAM_S)]
    options += ["--speech", str(speech), "--output", str(folder / "resuming.json")]
    return subprocess.run(
        [sys.executable, "-m", "loadtest", "resuming", *options, "--", *command],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.triton
def test_streams_that_lose_their_server_pass_and_others_prove_nothing(tmp_path: Path) -> None:
    with service(tmp_path) as (url, dying):
        failed = run(tmp_path, url, "false")
        assert (failed.returncode, "false ends with 0, got 1" in failed.stderr) == (2, True)

        idle = run(tmp_path, url, "true")
        assert (idle.returncode, "no stream has lost its server" in idle.stdout) == (1, True)

        killed = run(tmp_path, url, "kill", "-9", str(dying.process.pid))
        assert killed.returncode == 0, killed.stdout + killed.stderr
    result = ResumingResult.from_json(tmp_path / "resuming.json")
    assert (result.passes, result.failures) == (True, {})
    assert result.command == ["kill", "-9", str(dying.process.pid)]
    assert 0 < result.carried_on < result.streams
    assert result.gap is not None
    assert result.words == 8 * (STREAM_S * 1000 // 80 + 1)
    assert (result.missing_words, result.changed_words) == (0, 0)


def transcript(text: str) -> Transcript:
    words = tuple(Word(word, 0, 0, 1.0) for word in text.split())
    return Transcript(text=text, words=words, tokens=(), duration_s=0.0)


def test_words_that_are_missing_are_counted_apart_from_others() -> None:
    before = [transcript("one two three four"), transcript("five six")]
    after = [transcript("one three for"), transcript("five six seven")]
    assert compare(before, after) == Words(undisturbed=6, missing=1, changed=3)


def test_more_words_than_the_seams_explain_are_a_fault() -> None:
    assert list(Words(4790, 1, 11).faults(seams=30)) == []
    [missing] = Words(4790, 4, 11).faults(seams=30)
    assert missing.startswith("4 words are missing")
    [changed] = Words(4790, 3, 48).faults(seams=30)
    assert changed.startswith("48 of 4790 words differ")
