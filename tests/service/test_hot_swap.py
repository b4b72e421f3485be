"""A new model goes live and the old one retires while streams run: none fails, none is mixed up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import earshot
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from earshot._cli import app
from earshot._repository import fetch_metrics
from earshot._sync import open_repository
from typer.testing import CliRunner

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import load_checkpoint
from export.offline.reference import transcribe as transcribe_files
from export.recordings import load_recordings
from export.streaming.reference import transcribe
from server.launch import running
from tests.support.fake_recognizer import PATIENT
from tests.support.generations import FIRST, SECOND, install_first, install_second
from tests.support.launcher import UNLIMITED, Started, started, wait_for
from tests.support.project import Exported, ExportedOffline

pytestmark = pytest.mark.triton

CHUNK_MS = 320
AT_ONCE = 16
PIECE = SAMPLE_RATE_HZ * CHUNK_MS // 1000


Tokens = list[int]


@dataclass(frozen=True)
class Expected:
    """The tokens of transformers for each utterance."""

    streams: list[Tokens]
    files: list[Tokens]


@dataclass(frozen=True)
class Finished:
    """One stream that has ended."""

    generation: str
    utterance: int
    transcript: earshot.Transcript
    newest_at_end: str
    file: bool = False

    def check(self, expected: Expected) -> None:
        """Check tokens against transformers, and the letters against the generation."""
        references = expected.files if self.file else expected.streams
        assert [token.id for token in self.transcript.tokens] == references[self.utterance]
        text = self.transcript.text
        assert text == (text.lower() if self.generation == FIRST else text.upper())
        assert any(character.isalpha() for character in text)


@dataclass
class Traffic:
    """Streams that come and go until told to stop."""

    finished: list[Finished] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    newest: str = FIRST
    stop: threading.Event = field(default_factory=threading.Event)
    progress: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, generation: str, count: int) -> None:
        """Until so many more streams of a generation have ended; a failure ends the waiting."""
        with self.progress:
            wanted = count + self._count(generation)
            done = self.progress.wait_for(
                lambda: bool(self.errors) or self._count(generation) >= wanted, timeout=300
            )
        assert done
        assert not self.errors

    def _count(self, generation: str) -> int:
        return sum(
            finished.generation == generation and not finished.file for finished in self.finished
        )

    def add(self, finished: Finished | Exception) -> None:
        with self.progress:
            if isinstance(finished, Exception):
                self.errors.append(finished)
            else:
                self.finished.append(finished)
            self.progress.notify_all()


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    return [recording.samples[: 6 * SAMPLE_RATE_HZ] for recording in load_recordings()]


@pytest.fixture(scope="module")
def expected(random_checkpoint: Path, utterances: list[np.ndarray]) -> Expected:
    checkpoint = load_checkpoint(str(random_checkpoint))
    streams = transcribe(checkpoint, utterances, lookahead=CHUNK_MS // 80 - 1)
    files = transcribe_files(checkpoint, utterances)
    return Expected([r.tokens for r in streams], [r.tokens for r in files])


@contextmanager
def traffic_on(url: str, utterances: Sequence[np.ndarray]) -> Iterator[Traffic]:
    """Keeps AT_ONCE streams, and a file, under way on the newest `clinic`, from its own thread."""
    traffic = Traffic()
    thread = threading.Thread(target=lambda: asyncio.run(_run(traffic, url, utterances)))
    thread.start()
    try:
        yield traffic
    finally:
        traffic.stop.set()
        thread.join()


async def _run(traffic: Traffic, url: str, utterances: Sequence[np.ndarray]) -> None:
    async with earshot.connect_async(url, model="clinic", timeouts=PATIENT) as client:
        await asyncio.gather(
            *(_come_and_go(traffic, client, utterances, start) for start in range(AT_ONCE)),
            _send_files(traffic, client, utterances),
        )


async def _come_and_go(
    traffic: Traffic, client: earshot.AsyncClient, utterances: Sequence[np.ndarray], start: int
) -> None:
    index = start
    while not traffic.stop.is_set():
        index = (index + 1) % len(utterances)
        try:
            await client.refresh()
            traffic.newest = max(traffic.newest, client.info.name)
            generation = client.info.name
            async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                for first in range(0, len(utterances[index]), PIECE):
                    await stream.send(utterances[index][first : first + PIECE])
                    await asyncio.sleep(CHUNK_MS / 1000 / 4)  # four times as fast as life
                transcript = await stream.finish()
        except Exception as error:
            traffic.add(error)
            return
        traffic.add(Finished(generation, index, transcript, traffic.newest))


async def _send_files(
    traffic: Traffic, client: earshot.AsyncClient, utterances: Sequence[np.ndarray]
) -> None:
    index = 0
    while not traffic.stop.is_set():
        index = (index + 1) % len(utterances)
        try:
            await client.refresh()
            generation = client.info.name
            transcript = await client.transcribe(utterances[index], sample_rate_hz=SAMPLE_RATE_HZ)
        except Exception as error:
            traffic.add(error)
            return
        traffic.add(Finished(generation, index, transcript, traffic.newest, file=True))
        await asyncio.sleep(0.2)


@pytest.fixture
def repository(exported: Exported, exported_offline: ExportedOffline, tmp_path: Path) -> Path:
    """The first generation, in a repository that may be added to."""
    install_first(exported(CHUNK_MS), exported_offline("streaming"), tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def triton(repository: Path) -> Iterator[Started]:
    """Serves the first generation, and lets models come and go; its launcher tests them."""
    with started(repository, "--model-control", *UNLIMITED) as triton:
        yield triton


def models(triton: Started, *arguments: str) -> str:
    command = ["models", *arguments, "--url", triton.url]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def states(url: str) -> dict[str, str]:
    with open_repository(url) as repository:
        return {status.name: status.state for status in repository.statuses()}


def loaded_models(triton: Started) -> set[str]:
    """All models that are loaded, stages too."""
    with grpcclient.InferenceServerClient(triton.url) as client:
        index: Any = client.get_model_repository_index()
    return {model.name for model in index.models if model.state == "READY"}


def test_streams_run_through_the_change(
    triton: Started, repository: Path, utterances: list[np.ndarray], expected: Expected
) -> None:
    with traffic_on(triton.url, utterances) as traffic:
        traffic.wait_for(FIRST, AT_ONCE)
        install_second(repository)
        assert models(triton, "load", SECOND) == f"{SECOND} is live\n"
        traffic.wait_for(SECOND, AT_ONCE)
        retired = models(
            triton, "retire", FIRST, "--metrics-url", triton.metrics_url, "--quiet-s", "2"
        )
        assert retired == f"{FIRST} is retired\n"
        traffic.wait_for(SECOND, AT_ONCE)
    assert not traffic.errors
    for finished in traffic.finished:
        finished.check(expected)
    assert {finished.generation for finished in traffic.finished if finished.file} == {
        FIRST,
        SECOND,
    }
    through = [h for h in traffic.finished if (h.generation, h.newest_at_end) == (FIRST, SECOND)]
    assert sum(not finished.file for finished in through) >= AT_ONCE // 2
    assert states(triton.url) == {FIRST: "UNAVAILABLE", SECOND: "READY"}
    assert loaded_models(triton) == {model.name for model in repository.glob(f"{SECOND}_*")}


def test_retiring_waits_for_the_last_stream(
    triton: Started, utterances: list[np.ndarray], expected: Expected
) -> None:
    with open_repository(triton.url) as repository:
        live: list[int] = []

        def retire(timeout_s: float) -> None:
            repository.retire(FIRST, triton.metrics_url, 2.0, timeout_s, live.append)

        with (
            earshot.connect(triton.url, model=FIRST, timeouts=PATIENT) as client,
            client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
        ):
            stream.send(utterances[0][: 4 * PIECE])
            wait_for(lambda: repository.live_streams(FIRST, fetch_metrics(triton.metrics_url)) == 1)
            with pytest.raises(
                earshot.UnsupportedServer, match=r"in use after 1 s \(1 open streams\)"
            ):
                retire(timeout_s=1)
            assert live[-1] == 1
            stream.send(utterances[0][4 * PIECE :])
            tokens = [token.id for token in stream.finish().tokens]
        assert tokens == expected.streams[0]
        retire(timeout_s=300)
        assert states(triton.url) == {FIRST: "UNAVAILABLE"}
        with pytest.raises(earshot.UnsupportedServer, match="is not loaded"):
            retire(timeout_s=1)


def test_a_model_that_is_gone_is_reported(triton: Started) -> None:
    with earshot.connect(triton.url, timeouts=PATIENT) as client:
        models(triton, "unload", FIRST)
        with (
            pytest.raises(earshot.StreamLost, match="no longer serves clinic_v1_asr_streaming"),
            client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
        ):
            stream.send(np.zeros(2 * PIECE, np.float32))
        assert not client.is_ready()
        with pytest.raises(earshot.UnsupportedServer, match="no recognizer"):
            client.refresh()


def test_what_cannot_be_loaded(triton: Started, repository: Path) -> None:
    def fail(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["models", *arguments, "--url", triton.url])
        assert result.exit_code == 2
        assert result.stdout == ""
        return result.stderr

    assert "has no recognizer 'court'; it has clinic_v1" in fail("load", "court")
    assert "'clinic_v1' is already loaded" in fail("load", FIRST)
    assert "has no recognizer 'court'" in fail("unload", "court")
    served = loaded_models(triton)
    install_second(repository)
    (repository / "clinic_v2_encoder" / "1" / "model.onnx").write_text("no graph")
    complaint = fail("load", "clinic_v2")
    assert "clinic_v2_encoder" in complaint
    assert states(triton.url)[FIRST] == "READY"
    assert loaded_models(triton) == served


def test_a_server_with_fixed_models(repository: Path) -> None:
    with running(repository) as triton:
        result = CliRunner().invoke(app, ["models", "unload", FIRST, "--url", triton.grpc_url])
        assert result.exit_code == 2
        assert "--model-control" in result.stderr
        assert states(triton.grpc_url) == {FIRST: "READY"}
